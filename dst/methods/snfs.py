"""SNFS (Dettmers and Zettlemoyer 2019): growth by momentum, which also moves layers' budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from dst.core import checks
from dst.core.reductions import exact_sum
from dst.core.typing import Array
from dst.rules import scores
from dst.rules.accumulators import momentum
from dst.rules.allocation import Allocator
from dst.rules.counts import Due, apportion, exchanged
from dst.rules.durations import check_cadence, check_drop, drop_schedule, require_unstructured
from dst.rules.rule import Rule, fires
from dst.rules.schedule import Duration, cadence
from dst.rules.structure import Structure, Unstructured

_RULE = "SNFS prunes and regrows at the end of every epoch: give every=<steps of one epoch>."


@dataclass(frozen=True)
class SNFS:
    """Sparse momentum: drops the smallest weights, grows where the momentum of the dense gradient
    is largest, and gives each layer a share of what was dropped.

    ``m = beta m + g`` over raw gradients; a layer's share of the regrowth is the mean ``|m|`` of
    its active weights over the sum of these means.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: at the start; the paper's is uniform.
      drop_fraction: at step 0, in [0, 1].
      every: steps between topology steps. The paper: one epoch, which only you know.
      start, stop: first topology step, and the step before which the last one lies.
      decay: ``cosine`` (the code), ``linear`` or ``constant``.
      floor: drop fraction at the end of the decay.
      beta: of the momentum.
      redistribute: whether connections move between layers. False: RigL's code for its
        "momentum" baseline.
      cold_start: see :class:`dst.Rule`.
      structure: unstructured only.

    Example:
      >>> SNFS(sparsity=0.9, every=100, stop=1000).rule().fires(900)
      True

    References:
      Dettmers and Zettlemoyer 2019, "Sparse Networks from Scratch" (arXiv 1907.04840).

    Checked against: TimDettmers/sparse_learning at e19ff16, sparselearning/core.py and funcs.py;
    tests/methods/test_goldens.py::test_snfs_gives_each_layer_its_share_of_the_regrowth.
    Differs from the code: the sum of active weights is kept exactly, layers' shares rounded so
    that they add up, where the code corrects its drift from epoch to epoch; grown weights lose
    stale optimizer state; growth is scored by the momentum after this step's gradient.
    """

    sparsity: float
    allocation: str | Allocator = "uniform"
    drop_fraction: float = 0.5
    every: Duration | None = None
    start: Duration | None = None
    stop: Duration | None = "100%"
    decay: str = "cosine"
    floor: float = 0.005
    beta: float = 0.9
    redistribute: bool = True
    cold_start: str | int = "local_count"
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_drop(self)
        check_cadence(self.every, self.start, self.stop)
        checks.fraction("beta", self.beta, below_one=True)
        if self.redistribute:
            require_unstructured(self, "moves single connections between layers")
        self._rule()

    def _rule(self, **schedule: Any) -> Rule:
        return Rule(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            drop=scores.magnitude,
            grow=scores.remembered,
            memory=momentum(self.beta),
            budget=redistribute if self.redistribute else None,
            rounding="ceil",
            regrown="zero",
            cold_start=self.cold_start,
            **schedule,
        )

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        if self.every is None:
            raise ValueError(f"SNFS has no cadence. {_RULE}")
        return self._rule(
            cadence=cadence(self.every, self.start, self.stop, steps, _RULE),
            fraction=drop_schedule(self, steps, _RULE),
        )


def redistribute(due: Due) -> list[tuple[Array, Array]]:
    """Counts per layer: what each drops, and its share of all that is grown.

    The number of active weights in all layers together does not change.
    """
    size, active, mean = [], [], []
    for layout, leaf in zip(due.layouts, due.leaves, strict=True):
        inside = tuple(range(leaf.stacked, leaf.weight.ndim))
        n = jnp.sum(leaf.active, axis=inside, dtype=jnp.int32).reshape(-1)
        total = exact_sum(jnp.where(leaf.active, jnp.abs(leaf.memory), 0.0), inside).reshape(-1)
        size.append(jnp.full_like(n, layout.units))
        active.append(n)
        mean.append(total / jnp.maximum(n, 1).astype(jnp.float32))
    sizes, n, means = map(jnp.concatenate, (size, active, mean))
    zeros = sizes - n
    # Of equal layers every order of addition gives the same sum: a few numbers, not sharded.
    share = means / jnp.maximum(jnp.sum(means), jnp.float32(1e-30))

    dropped = exchanged(n, due.share, due.rule.rounding)
    # Layers that are nearly dense and want to grow exchange no more than they have zeros for.
    sparsity = zeros.astype(jnp.float32) / sizes.astype(jnp.float32)
    few = jnp.floor(sparsity * n.astype(jnp.float32)).astype(jnp.int32)
    full = (sparsity < 0.2) & (share > 1.0 / len(n))
    dropped = jnp.where(full, jnp.minimum(dropped, few), dropped)

    free = zeros + dropped
    grown = apportion(jnp.sum(dropped), share, free - (free + 99) // 100, free)
    kept, total = n - dropped, n - dropped + grown
    edges = [0]
    for part in active:
        edges.append(edges[-1] + part.size)
    return [
        (kept[a:b].reshape(x.counts), total[a:b].reshape(x.counts))
        for x, a, b in zip(due.layouts, edges[:-1], edges[1:], strict=True)
    ]
