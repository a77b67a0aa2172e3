"""SliceGPT: a decoder with a narrower residual stream, after a rotation that changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core import checks
from dst.core.typing import ArrayLike
from dst.models.decoder import ACTIVATIONS, Decoder
from dst.oneshot.structured.modules import add_bias
from dst.rules.schedule import exact

_DAMPING = 0.01  # of the mean variance, as in the authors' code
# What reads the residual stream after each norm, and what adds to it.
_READ = {
    "attention_norm": ("attention", ("query", "key", "value")),
    "feed_forward_norm": ("feed_forward", ("gate", "up")),
}
_WRITE = (("attention", "output"), ("feed_forward", "down"))


def sliced(
    model: Decoder, fraction: float, batches: Iterable[ArrayLike], *, multiple: int = 1
) -> Decoder:
    """A decoder whose residual stream has fewer channels.

    RMSNorm without a scale commutes with rotations: ``norm(x Q) = norm(x) Q`` for orthogonal ``Q``.
    So the scales of norms move into the matrices that read them, and the stream is rotated to its
    principal components: ``W Q`` and ``b Q`` for what adds to it, ``Q^T W`` for what reads it. This
    changes no logits. Then the last components are deleted. The norms go on dividing by the root of
    the sum of squares over the old width.

    Args:
      model: a decoder whose blocks are a list; not changed.
      fraction: of the channels, in [0, 1); 0 rotates alone.
      batches: of tokens, int ``[batch, length]``, whose normed streams have the components.
      multiple: the new width is the largest multiple of this number that is at most
        ``(1 - fraction)`` of the old one.

    Returns:
      A decoder of the new width. Its output head is a table of its own, as the scale of the last
      norm belongs to it alone.

    Raises:
      ValueError: another model, stacked blocks, a fraction outside [0, 1), no batches, streams that
        are not finite, no channel left.

    Example:
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=12, rngs=nnx.Rngs(0))
      >>> tokens = jnp.arange(16).reshape(2, 8)
      >>> sliced(model, 0.25, [tokens]).embedding.features
      6
      >>> bool(jnp.allclose(sliced(model, 0, [tokens])(tokens), model(tokens), atol=1e-4))
      True

    References: Ashkboos et al. 2024, "SliceGPT: compress large language models by deleting rows and
    columns" (arXiv 2401.15024).
    Checked against: logits before and after the rotation, and slices by random rotations,
    tests/models/test_slicegpt.py.
    Differs from the paper: one rotation serves all blocks, so the result is an ordinary decoder;
    the paper has one per block, and extra matrices between them. Components are those of the
    unsliced streams.
    """
    if not isinstance(model, Decoder) or model.scan:
        found = "stacked blocks" if isinstance(model, Decoder) else type(model).__name__
        raise ValueError(
            f"sliced: expected a dst.models.Decoder with a list of blocks, got {found}. "
            "Load or build it with scan=False."
        )
    checks.fraction("fraction", fraction, below_one=True)
    checks.integer("multiple", multiple, at_least=1)
    width = model.embedding.features
    kept = int((1 - exact(fraction)) * width) // multiple * multiple
    if not kept:
        raise ValueError(
            f"sliced: expected at least one of {width} channels to be left, got none at fraction "
            f"{fraction} and multiples of {multiple}."
        )
    rotation = components(model, batches)[:, :kept]
    new = _empty(model, kept)
    _fill(new, model, rotation, float(np.sqrt(width / kept)))
    return new


def components(model: Decoder, batches: Iterable[ArrayLike]) -> np.ndarray:
    """The principal components of the normed residual streams, float64 ``[width, width]``: columns
    of unit length, of descending variance."""
    graph, state = nnx.split(model)

    @jax.jit
    def gram(state: Any, tokens: Any) -> Any:
        merged = nnx.merge(graph, state)
        after = merged.hidden_states(tokens)
        streams = jnp.concatenate([merged.embedding(tokens)[None], after]).astype(jnp.float32)
        squares = jnp.mean(jnp.square(streams), axis=-1, keepdims=True)
        normed = streams * jax.lax.rsqrt(squares + model.epsilon)
        return jnp.einsum("lbti,lbtj->ij", normed, normed, precision=jax.lax.Precision.HIGHEST)

    width = model.embedding.features
    total, count = np.zeros((width, width)), 0
    for tokens in batches:
        total += np.asarray(gram(state, jnp.asarray(tokens)), np.float64)
        count += 1
    if not count or not np.isfinite(total).all():
        what = "streams that are not finite" if count else "no batches"
        raise ValueError(f"sliced: expected batches of tokens with finite streams, got {what}.")
    total += _DAMPING * np.mean(np.diag(total)) * np.eye(width)
    return np.linalg.eigh(total)[1][:, ::-1]


def _empty(model: Decoder, width: int) -> Decoder:
    """A decoder of another width, with the settings of a model."""
    block = model.blocks[0]
    part, hidden = block.attention, block.feed_forward
    known: list[Any] = [name for name, x in ACTIVATIONS.items() if x is hidden.activation]
    if not known:
        raise ValueError(
            "sliced: expected a decoder without thresholds, found another activation. Take them "
            "away: dst.activations.remove(model)."
        )
    old = model.embedding.features
    return Decoder(
        (model.context,),
        model.embedding.num_embeddings,
        width=width,
        layers=model.layers,
        heads=part.heads,
        kv_heads=part.kv_heads,
        hidden=hidden.up.out_features,
        head_size=part.rotary.size,
        tied=False,
        rotary_base=part.rotary.base,
        rotary_factors=part.rotary.factors,
        epsilon=model.epsilon * old / width,
        activation=known[0],
        rngs=nnx.Rngs(0),
    )


def _fill(new: Decoder, old: Decoder, rotation: np.ndarray, scaling: float) -> None:
    """Writes the weights of the rotated and sliced model.

    Args:
      new: of the new width; changed.
      old: the model.
      rotation: ``[width, kept]``.
      scaling: of all norms: the root of the ratio of widths, for means over fewer channels.
    """

    def write(target: Any, value: np.ndarray, like: Any) -> None:
        target[...] = jnp.asarray(value, like[...].dtype)

    def write_bias(target: Any, layer: Any, rotated: np.ndarray | None = None) -> None:
        if layer.bias is not None:
            add_bias(target)
            bias = _wide(layer.bias)
            write(target.bias, bias if rotated is None else bias @ rotated, layer.bias)

    table, constant = old.embedding.embedding, np.full(rotation.shape[1], scaling)
    write(new.embedding.embedding, _wide(table) @ rotation, table)
    for block, before in zip(new.blocks, old.blocks, strict=True):
        for norm, (part, names) in _READ.items():
            scale = _wide(getattr(before, norm).scale)
            write(getattr(block, norm).scale, constant, getattr(before, norm).scale)
            for name in names:
                layer = getattr(getattr(before, part), name)
                target = getattr(getattr(block, part), name)
                kernel = rotation.T @ (scale[:, None] * _wide(layer.kernel))
                write(target.kernel, kernel, layer.kernel)
                write_bias(target, layer)
        for part, name in _WRITE:
            layer = getattr(getattr(before, part), name)
            target = getattr(getattr(block, part), name)
            write(target.kernel, _wide(layer.kernel) @ rotation, layer.kernel)
            write_bias(target, layer, rotation)
    scale = _wide(old.final_norm.scale)
    write(new.final_norm.scale, constant, old.final_norm.scale)
    head = _wide(table).T if old.unembedding is None else _wide(old.unembedding.kernel)
    assert new.unembedding is not None
    write(new.unembedding.kernel, rotation.T @ (scale[:, None] * head), table)


def _wide(variable: Any) -> np.ndarray:
    return np.asarray(variable[...], np.float64)
