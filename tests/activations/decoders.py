"""Small decoders, and what enters their matrices, recorded without compilation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.models import Decoder

SIZES = {"width": 16, "layers": 2, "heads": 4, "hidden": 24}
BATCHES = [np.random.default_rng(i).integers(0, 11, (4, 8)) for i in range(3)]


def decoder(**changes):
    """Two blocks, a vocabulary of 11."""
    return Decoder((8,), 11, **{**SIZES, **changes}, rngs=nnx.Rngs(0))


def scanned(model):
    """The same weights in stacked blocks."""
    activation = {"relu": "relu"}.get(model.blocks[0].feed_forward.activation.__name__, "silu")
    new = decoder(scan=True, activation=activation)
    weights = nnx.to_pure_dict(nnx.state(model))
    weights["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *weights["blocks"].values())
    state = nnx.state(new)
    nnx.replace_by_pure_dict(state, weights)
    nnx.update(new, state)
    return new


def logits(model, tokens=BATCHES[0]):
    """What a model computes."""
    graph, state = nnx.split(model)
    return np.asarray(jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, jnp.asarray(tokens)))


class Recorder(nnx.Module):
    """Keeps what enters and leaves a layer."""

    def __init__(self, layer):
        self.layer, self.seen = layer, nnx.static([])

    def __call__(self, x):
        y = self.layer(x)
        self.seen.append((np.asarray(x, np.float64), np.asarray(y, np.float64)))
        return y


def recorded(model, tokens, name):
    """What enters and leaves a matrix in each layer, run operation by operation."""
    copy, recorders = nnx.merge(*nnx.split(model)), []
    for block in copy.blocks:
        holder = block.feed_forward if hasattr(block.feed_forward, name) else block.attention
        if hasattr(getattr(holder, name), "former"):  # a method stands in its place
            holder, name_there = getattr(holder, name), "former"
        else:
            name_there = name
        recorders.append(Recorder(getattr(holder, name_there)))
        setattr(holder, name_there, nnx.data(recorders[-1]))
    copy(jnp.asarray(tokens))
    return [x.seen[0] for x in recorders]
