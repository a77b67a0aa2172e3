"""One layer's cache: what a prompt leaves in it, and what a token adds to it and evicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dst.activations.cache.eviction import Eviction
from dst.core.typing import Array, Bool, Float, Int

Rotary = Callable[..., Array]  # ``rotary(x, positions)``, of :class:`dst.models.Decoder`


class Layer(NamedTuple):
    """The entries of a layer, in arrays of fixed size.

    Attributes:
      key: ``[batch, kv_heads, slots, size]``, turned by the positions of the text, or as projected
        where the rule has ``places``.
      value: of the same shape.
      position: int32 ``[batch, kv_heads, slots]``, of the entry in the text; -1: an empty slot.
      score: float32 ``[batch, kv_heads, slots]``; None where the rule remembers none.
      number: of the layer, from zero.
    """

    key: Array
    value: Array
    position: Array
    score: Array | None
    number: Array


def empty(rule: Eviction, number: int, shape: tuple[int, int, int, int], dtype: Any) -> Layer:
    """A layer without entries; ``shape`` is that of its keys."""
    return Layer(
        key=jnp.zeros(shape, dtype),
        value=jnp.zeros(shape, dtype),
        position=jnp.full(shape[:3], -1, jnp.int32),
        score=jnp.zeros(shape[:3], jnp.float32) if rule.remembers else None,
        number=jnp.int32(number),
    )


def prompt(
    rule: Eviction, rotary: Rotary, query: Array, key: Array, value: Array, layer: Layer
) -> tuple[Array, Layer]:
    """Causal attention within a prompt, of which the entries of highest priority stay.

    Args:
      rule: of the policy.
      rotary: by which queries and keys turn.
      query: ``[batch, length, heads, size]``, before rotation.
      key: ``[batch, length, kv_heads, size]``, before rotation.
      value: of the shape of ``key``.
      layer: an empty one.
    """
    batch, length, kv_heads, _ = key.shape
    turned = _heads_first(rotary(key))
    alive = jnp.tril(jnp.ones((length, length), bool))[None, None, None]
    mixed, weights = attend(
        rule, _grouped(rotary(query), kv_heads), turned, _heads_first(value), alive, layer.number
    )
    position = jnp.broadcast_to(
        jnp.arange(length, dtype=jnp.int32)[None, None], (batch, kv_heads, length)
    )
    score, newest = jnp.zeros(position.shape, jnp.float32), jnp.int32(length - 1)
    if rule.scores is not None:
        score = rule.scores(score, weights, position, newest)
    stored = turned if rule.places is None else _heads_first(key)
    found: tuple[Array, ...] = (stored, _heads_first(value), position, score)
    if rule.budget is not None and length > rule.budget:
        chosen = highest(rule.priority(score, position, newest), rule.budget)
        found = tuple(_taken(x, chosen) for x in found)
    keys, values, position, score = found
    slots, dtype = layer.key.shape[2], layer.key.dtype
    return _merged_heads(mixed), Layer(
        _padded(keys.astype(dtype), slots),
        _padded(values.astype(dtype), slots),
        _padded(position, slots, -1),
        _padded(score, slots) if rule.remembers else None,
        layer.number,
    )


def step(
    rule: Eviction,
    time: Int[Array, ""],
    rotary: Rotary,
    query: Array,
    key: Array,
    value: Array,
    layer: Layer,
) -> tuple[Array, Layer]:
    """Attention of one new token to the entries and itself, and the eviction after it.

    Args:
      rule: of the policy.
      time: position of the new token.
      rotary: by which queries and keys turn.
      query: ``[batch, 1, heads, size]``, before rotation.
      key: ``[batch, 1, kv_heads, size]``, before rotation.
      value: of the shape of ``key``.
      layer: with a slot that is empty.
    """
    kv_heads = key.shape[2]
    free = jnp.argmin(layer.position, axis=-1)  # an empty slot has the position -1

    def put(x: Array, new: Array) -> Array:
        batch, heads = jnp.indices(free.shape)
        return x.at[batch, heads, free].set(new)

    position = put(layer.position, jnp.broadcast_to(time, free.shape))
    if rule.places is None:
        now, stored = time, _heads_first(rotary(key, time[None, None, None]))
    else:
        now, stored = rule.places(time[None, None, None], time)[0, 0, 0], _heads_first(key)
    keys = put(layer.key, stored[:, :, 0])
    values = put(layer.value, _heads_first(value)[:, :, 0])
    turned = keys if rule.places is None else rotary(keys, rule.places(position, time))
    alive = (position >= 0)[:, :, None, None]
    mixed, weights = attend(
        rule,
        _grouped(rotary(query, now[None, None, None]), kv_heads),
        turned,
        values,
        alive,
        layer.number,
    )
    score = jnp.zeros(position.shape, jnp.float32)
    if layer.score is not None:
        score = put(layer.score, score[..., 0])
    if rule.scores is not None:
        score = rule.scores(score, weights, position, time)
    if rule.budget is not None:
        goes = lowest(rule.priority(score, position, time), position) & (time >= rule.budget)
        if rule.merge is not None:
            values = rule.merge(values, score, position, goes, time, layer.number)
        position = jnp.where(goes, -1, position)
    kept = score if rule.remembers else None
    return _merged_heads(mixed), Layer(keys, values, position, kept, layer.number)


def highest(
    priority: Float[Array, "batch kv_heads entries"], budget: int
) -> Int[Array, "batch kv_heads budget"]:
    """The entries that stay after a prompt, in order: of equal priorities, the earliest."""
    return jnp.sort(lax.top_k(_without_nan(priority), budget)[1])


def lowest(
    priority: Float[Array, "batch kv_heads slots"], position: Int[Array, "batch kv_heads slots"]
) -> Bool[Array, "batch kv_heads slots"]:
    """The entry that is evicted: that of lowest priority, the latest among equals."""
    alive, priority = position >= 0, _without_nan(priority)
    least = jnp.where(alive, priority, jnp.inf).min(axis=-1, keepdims=True)
    chosen = jnp.where(alive & (priority == least), position, -1)
    return alive & (position == chosen.max(axis=-1, keepdims=True))


def attend(
    rule: Eviction, query: Array, key: Array, value: Array, alive: Array, number: Array
) -> tuple[Array, Array]:
    """Attention to the entries that are alive and read, and its weights, in float32.

    Args:
      rule: of the policy.
      query: ``[batch, kv_heads, group, queries, size]``, turned.
      key: ``[batch, kv_heads, entries, size]``, turned.
      value: of the shape of ``key``.
      alive: bool, broadcasts against ``[batch, kv_heads, group, queries, entries]``.
      number: of the layer.
    """
    logits = jnp.einsum("bhgqd,bhed->bhgqe", query, key, preferred_element_type=jnp.float32)
    logits = logits / math.sqrt(query.shape[-1])
    if rule.reading is not None:
        alive &= rule.reading.choose(query, key, alive, number)
    weights = jax.nn.softmax(jnp.where(alive, logits, -jnp.inf))
    return jnp.einsum("bhgqe,bhed->bhgqd", weights.astype(value.dtype), value), weights


def _without_nan(priority: Array) -> Array:
    return jnp.where(jnp.isnan(priority), -jnp.inf, priority)


def _heads_first(x: Array) -> Array:
    return x.transpose(0, 2, 1, 3)


def _grouped(query: Array, kv_heads: int) -> Array:
    """``[batch, queries, heads, size]`` as ``[batch, kv_heads, group, queries, size]``."""
    batch, length, heads, size = query.shape
    parts = query.reshape(batch, length, kv_heads, heads // kv_heads, size)
    return parts.transpose(0, 2, 3, 1, 4)


def _merged_heads(mixed: Array) -> Array:
    """The way back from :func:`_grouped`."""
    batch, kv_heads, group, length, size = mixed.shape
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, kv_heads * group, size)


def _taken(x: Array, chosen: Array) -> Array:
    """Entries by their numbers, ``[batch, kv_heads, budget]``."""
    return jnp.take_along_axis(x, chosen if x.ndim == 3 else chosen[..., None], axis=2)


def _padded(x: Array, slots: int, value: int = 0) -> Array:
    wide = [(0, 0), (0, 0), (0, slots - x.shape[2])] + [(0, 0)] * (x.ndim - 3)
    return jnp.pad(x, wide, constant_values=value)
