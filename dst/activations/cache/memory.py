"""Bytes of a cache."""

from __future__ import annotations

from typing import NamedTuple

import jax
from flax import nnx

from dst.activations.cache.eviction import Policy
from dst.activations.cache.model import start
from dst.activations.cache.sizes import check


class Memory(NamedTuple):
    """Bytes of the cache of one text.

    Attributes:
      entries: of keys and values.
      bookkeeping: of positions and scores.
      read: of keys and values that predicting one more token reads at most, with labels.
    """

    entries: int
    bookkeeping: int
    read: int


def memory(model: nnx.Module, policy: Policy, length: int) -> Memory:
    """Bytes of the arrays of a cache for one text of ``length`` tokens; nothing is allocated.

    Keys and values take ``2 layers kv_heads slots size`` numbers, where ``slots`` is the budget and
    one more for the newest token, or ``length`` if that is less.

    Args:
      model: a :class:`dst.models.Decoder`.
      policy: by which entries are evicted.
      length: tokens that are read in all.

    Raises:
      ValueError: another model than a decoder, or a length that does not fit into its context.
      TypeError: a policy without a rule.

    Example:
      >>> from dst.activations.cache import Full, Local
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> memory(model, Full(), 8).entries, memory(model, Local(3), 8).entries
      (512, 256)

    Checked against: the arrays themselves, tests/activations/cache/test_memory.py.
    """
    sizes, rule = check(model, policy, length), policy.rule()
    cache = jax.eval_shape(lambda: start(model, policy, 1, length))
    layers = cache.layers if isinstance(cache.layers, list) else [cache.layers]
    entries = sum(_bytes(x.key) + _bytes(x.value) for x in layers)
    # The number of a layer is an index of the program, not of the cache.
    bookkeeping = sum(
        _bytes(x.position) + (_bytes(x.score) if rule.remembers else 0) for x in layers
    )
    read, reading = entries, rule.reading
    if reading is not None:
        group = sizes.heads // sizes.kv_heads
        key_bits = 8 * sizes.dtype.itemsize
        chosen = min(reading.entries * group, length)  # no two heads of a group share an entry
        labels = len(reading.channels[0][0]) * group
        if reading.bits is None:  # channels of the keys, of which those chosen are read anyway
            of_labels = (length - chosen) * min(labels, sizes.rotary.size) * key_bits // 8
        else:  # numbers of their own
            of_labels = length * labels * reading.bits // 8
        of_entries = 2 * chosen * sizes.rotary.size * key_bits // 8
        dense = min(reading.dense_layers, sizes.layers)
        read = entries * dense // sizes.layers
        read += (sizes.layers - dense) * sizes.kv_heads * (of_labels + of_entries)
    return Memory(entries, bookkeeping, read)


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    return x.size * x.dtype.itemsize
