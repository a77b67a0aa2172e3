"""Double Sparsity: a few channels of the keys say which entries a query reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.activations.cache.eviction import Eviction, Reading, check_budget
from dst.activations.cache.sizes import check
from dst.core import checks
from dst.core.selection import top_k_mask
from dst.core.typing import Array, Int, PyTree

Channels = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class DoubleSparsity:
    """Keeps every entry; a query reads the ``budget`` entries of highest label score.

    The label score of a query ``q`` and a key ``k`` is ``sum of q_c k_c / sqrt(r)`` over the ``r``
    label channels ``c`` of the head, after rotation. Attention to the chosen entries has all
    channels. Every query head chooses for itself. Positions are those of the text.

    Nothing is evicted, so the cache is as large as :class:`Full`'s. What is saved is reading, which
    :func:`memory` counts. This implementation masks entries and takes no less time.

    Args:
      budget: entries that a query reads, >= 1.
      channels: label channels ``[layers][heads][r]``, of :func:`label_channels`.
      bits: to which labels of queries and keys are rounded, from the least to the largest value of
        each vector; None: they are not.
      dense_layers: the first layers, where a query reads all entries, >= 0.

    Raises:
      ValueError: heads without channels, or with different numbers of them.

    Example:
      >>> DoubleSparsity(2, channels=(((1, 0),),), dense_layers=0).rule().reading.entries
      2

    References: Yang et al. 2024, "Post-training sparse attention with double sparsity"
      (arXiv 2408.07092).
    Checked against: andy-yang-1/DoubleSparse, evaluation/modify_llama.py at commit 52bfb14 and
      config/offline_calibration.py at commit 33be72e, by labels worked out by hand:
      tests/activations/cache/test_double_sparsity.py.
    Differs from its code: of equal labels the earliest entry is read; labels are read from the
      keys and not stored again; ``qk`` channels are ranked by means over all windows, where the
      code has those of the last one. That file is sparse in every layer (``dense_layers=0``).
    """

    budget: int
    channels: Channels
    bits: int | None = None
    dense_layers: int = 2

    def __post_init__(self) -> None:
        check_budget("DoubleSparsity", self.budget)
        checks.integer("dense_layers of DoubleSparsity", self.dense_layers, at_least=0)
        if self.bits is not None:
            checks.integer("bits of DoubleSparsity", self.bits, at_least=1, at_most=16)
        numbers = {len(head) for layer in self.channels for head in layer}
        if len(numbers) != 1 or 0 in numbers:
            raise ValueError(
                "channels of DoubleSparsity must have equally many numbers for every head, at "
                f"least one, found {sorted(numbers)}. dst.activations.cache.label_channels makes "
                "them."
            )

    def rule(self) -> Eviction:
        """No budget of entries, but one of reading."""
        reading = Reading(self.choose, self.budget, self.channels, self.bits, self.dense_layers)
        return Eviction(reading=reading)

    def choose(self, query: Array, key: Array, alive: Array, layer: Array) -> Array:
        """The entries of highest label among those that are alive."""
        labels = self.labels(query, key, layer)
        alive = jnp.broadcast_to(alive, labels.shape)
        best = top_k_mask(labels, self.budget, alive, group_axes=(0, 1, 2, 3))
        return jnp.where(layer < self.dense_layers, alive, best)

    def labels(self, query: Array, key: Array, layer: Array) -> Array:
        """Label scores of the shape of attention weights, float32.

        Args:
          query: ``[batch, kv_heads, group, queries, size]``, turned.
          key: ``[batch, kv_heads, entries, size]``, turned.
          layer: its number.
        """
        _, kv_heads, group, _, size = query.shape
        numbers = np.array(self.channels)
        table = np.zeros((*numbers.shape[:2], size), bool)
        np.put_along_axis(table, numbers, True, axis=2)
        # Other channels are zero: the sum is over the label channels, and nothing is gathered.
        mask = jnp.asarray(table)[layer].reshape(1, kv_heads, group, 1, size)
        query, keys = self._rounded(query, mask), self._rounded(key[:, :, None], mask)
        found = jnp.einsum("bhgqd,bhged->bhgqe", query, keys, preferred_element_type=jnp.float32)
        return found / math.sqrt(numbers.shape[2])

    def _rounded(self, x: Array, mask: Array) -> Array:
        """The label channels of vectors, the others zero, in ``2^bits`` steps."""
        if self.bits is None:
            return jnp.where(mask, x, 0)
        most = 2**self.bits - 1
        low = jnp.min(jnp.where(mask, x, jnp.inf), axis=-1, keepdims=True)
        high = jnp.max(jnp.where(mask, x, -jnp.inf), axis=-1, keepdims=True)
        unit = jnp.where(high == low, 1.0, high - low) / most
        return jnp.where(mask, jnp.round((x - low) / unit) * unit + low, 0).astype(x.dtype)


def label_channels(
    model: nnx.Module,
    windows: Int[np.ndarray, "count length"],
    count: int,
    *,
    by: Literal["q", "k", "qk"] = "qk",
    batch: int = 8,
) -> Channels:
    """The channels of every head that matter most for attention, on average over a text.

    ``by`` says what is large: the mean over tokens of ``|q_c|`` or of ``|k_c|`` before rotation, or
    of ``|q_c k_c|`` after it, where every token meets itself. Equal channels rank by their number.

    Args:
      model: a :class:`dst.models.Decoder`.
      windows: int ``[count, length]``, a calibration text.
      count: channels per head.
      by: what is compared.
      batch: windows at a time.

    Raises:
      ValueError: no decoder; windows longer than its context; more channels than a head has.

    Example:
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> [len(head) for head in label_channels(model, np.arange(16).reshape(2, 8), 2)[0]]
      [2, 2]

    References: Yang et al. 2024 (arXiv 2408.07092).
    Checked against: a computation in NumPy, tests/activations/cache/test_double_sparsity.py.
    """
    checks.one_of("by", by, ("q", "k", "qk"))
    checks.integer("batch", batch, at_least=1)
    decoder = check(model)
    size = decoder.rotary.size
    checks.integer("the number of windows", len(windows), at_least=1)
    checks.integer("count", count, at_least=1, at_most=size)
    checks.integer("length of windows", windows.shape[1], at_least=1, at_most=decoder.context)
    graph, state = nnx.split(model)
    total = np.zeros((decoder.layers, decoder.heads, size))
    for start in range(0, len(windows), batch):
        part = jnp.asarray(windows[start : start + batch])
        total += np.asarray(_sums(graph, state, part, by), np.float64)
    ranks = np.argsort(-total, axis=-1, kind="stable")[..., :count]
    return tuple(tuple(tuple(map(int, head)) for head in layer) for layer in ranks)


@partial(jax.jit, static_argnames=("graph", "by"))
def _sums(graph: Any, state: PyTree, tokens: Array, by: str) -> Array:
    """Float32 ``[layers, heads, size]``, over all tokens."""
    model = nnx.merge(graph, state)

    def attend(rotary: Any, query: Array, key: Array, value: Array, kept: Any) -> Any:
        turned, keys = rotary(query), rotary(key)
        mixed = jax.nn.dot_product_attention(turned, keys, value, is_causal=True)
        shared = partial(jnp.repeat, repeats=query.shape[2] // key.shape[2], axis=2)
        found = {"q": query, "k": shared(key), "qk": turned * shared(keys)}[by]
        return mixed, jnp.abs(found.astype(jnp.float32)).sum(axis=(0, 1))

    _, kept = model.hidden(tokens, attend, None)
    return kept if model.scan else jnp.stack(kept)
