"""How much the embeddings of an encoder move when it is pruned."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core.typing import Array, Int, PyTree
from dst.models.encoder import Encoder

_ROWS = 2048  # tokens at a time


def cosine(model: Encoder, against: Encoder, windows: Int[np.ndarray, "count length"]) -> float:
    """The mean cosine between the embeddings of two encoders, over texts; in [-1, 1].

    Args:
      model: an encoder.
      against: the dense one that it came from.
      windows: int ``[count, length]``, of :func:`consecutive`.

    Raises:
      ValueError: windows longer than the context; encoders of different widths.

    Example:
      >>> from dst.models import Encoder
      >>> sizes = dict(width=8, layers=1, heads=2, hidden=8)
      >>> model = Encoder(8, 100, **sizes, rngs=nnx.Rngs(0))
      >>> round(cosine(model, model, np.arange(16).reshape(2, 8)), 5)
      1.0

    Checked against: NumPy, tests/eval/test_embeddings.py.
    """
    graphs, states = zip(*map(nnx.split, (model, against)), strict=True)
    rows = max(_ROWS // windows.shape[1], 1)
    found = []
    for start in range(0, len(windows), rows):
        tokens = jnp.asarray(windows[start : start + rows])
        one, other = map(partial(_embeddings, tokens=tokens), graphs, states)
        if one.shape != other.shape:
            raise ValueError(
                f"both encoders must have one width, got {one.shape[1]} and {other.shape[1]}."
            )
        found.append(np.asarray(jnp.sum(one * other, axis=-1), np.float64))
    return float(np.concatenate(found).mean())


# Outside of `cosine`, so that it is compiled once for all encoders of one architecture.
@partial(jax.jit, static_argnums=0)
def _embeddings(graph: Any, state: PyTree, tokens: Int[Array, "count length"]) -> Array:
    return nnx.merge(graph, state).embed(tokens)
