"""What a policy is made of: the functions by which a cache scores, evicts and reads its entries.

All see one layer. Arrays of entries are ``[batch, kv_heads, entries]``, attention weights and masks
``[batch, kv_heads, group, queries, entries]``, where ``group`` are the queries that share a key.
The prompt has as many queries as entries, every later token one query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dst.core import checks
from dst.core.typing import Array

# Arguments and results are described where a rule has them.
Scores = Callable[[Array, Array, Array, Array], Array]
Priority = Callable[[Array, Array, Array], Array]
Places = Callable[[Array, Array], Array]
Merge = Callable[[Array, Array, Array, Array, Array, Array], Array]
Choose = Callable[[Array, Array, Array, Array], Array]


def oldest_first(scores: Array, position: Array, time: Array) -> Array:
    """The position: the oldest entry goes."""
    return position.astype("float32")


@dataclass(frozen=True)
class Reading:
    """Which entries a query reads, where it does not read all.

    Attributes:
      choose: ``(query, key, alive, layer) -> bool`` of the shape of attention weights, from turned
        queries ``[batch, kv_heads, group, queries, size]`` and keys ``[batch, kv_heads, entries,
        size]``, the entries that a query may read and the number of the layer.
      entries: that a query reads at most.
      channels: of keys by which it chooses, ``[layers][heads][labels]``.
      bits: in which such a channel is stored; None: those of a key.
      dense_layers: the first layers, where a query reads all.
    """

    choose: Choose
    entries: int
    channels: tuple[tuple[tuple[int, ...], ...], ...]
    bits: int | None = None
    dense_layers: int = 0


@dataclass(frozen=True)
class Eviction:
    """The rule of a policy. After every step each key-value head has at most ``budget`` entries.

    A step adds the entry of the new token, attends, updates scores, and evicts the entry of lowest
    priority if there are more than ``budget``; among equals the latest goes, and NaN is lowest.
    After a prompt the ``budget`` entries of highest priority stay. What is evicted never returns.

    Attributes:
      budget: entries per head; None: all stay.
      priority: ``(scores, position, time) -> float``, of every entry; ``inf`` protects. ``time`` is
        the position of the newest token.
      scores: ``(scores, weights, position, time) -> scores``, after each attention; new entries
        come with a score of zero. None: all have it.
      remembers: whether scores stay with their entries from step to step.
      places: ``(position, time) -> places``, by which keys turn when the newest token is number
        ``time``; None: by their positions in the text.
      merge: ``(value, scores, position, evicted, time, layer) -> value``, where the values of the
        evicted entry go; ``evicted`` is a bool mask of one entry per head. None: they are lost.
      reading: which entries a query reads; None: all.
      shortest: tokens that a prompt must have at least.
    """

    budget: int | None = None
    priority: Priority = oldest_first
    scores: Scores | None = None
    remembers: bool = False
    places: Places | None = None
    merge: Merge | None = None
    reading: Reading | None = None
    shortest: int = 0

    def slots(self, length: int) -> int:
        """Slots of a head: one more than the budget, for the newest token."""
        return length if self.budget is None else min(self.budget + 1, length)


@runtime_checkable
class Policy(Protocol):
    """A cache policy: a frozen dataclass whose fields are its hyper-parameters."""

    def rule(self) -> Eviction:
        """The functions by which the cache works."""
        ...


def check_budget(policy: str, budget: object, least: int = 1, what: str = "") -> None:
    """Raises unless a budget is an integer of at least ``least`` entries.

    Args:
      policy: its name.
      budget: what was found.
      least: entries that it needs.
      what: these entries in words, such as ``sinks + 1``.

    Raises:
      ValueError: a smaller budget, or no integer.
    """
    checks.integer(f"budget of {policy}", budget, at_least=1)
    if isinstance(budget, int) and budget < least:
        raise ValueError(
            f"budget of {policy} must be at least {what} = {least} entries, got {budget}. Raise "
            "the budget, or protect fewer entries."
        )
