"""GraNet (Liu et al. 2021): gradual global pruning, and regeneration by gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dst.core import checks
from dst.methods.gmp import share_of
from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import check_cadence, check_drop, drop_schedule
from dst.rules.rule import Rule, fires
from dst.rules.schedule import Duration, cadence, cubic, resolve
from dst.rules.structure import Structure, Unstructured

_RULE = "GraNet prunes every 1000 steps (4000 on ImageNet) for the first part of training."


@dataclass(frozen=True)
class GraNet:
    """At each topology step prunes by magnitude over all layers down to a cubic schedule, then
    exchanges a share of every layer's smallest weights for those of largest gradient.

    Args:
      sparsity: at the end of pruning, in [0, 1).
      initial_sparsity: at the start: 0 goes from dense to sparse; 0.5 is the paper's
        sparse-to-sparse setting.
      initial_allocation: sparsity per layer at the start, where that is not dense.
      drop_fraction: of the regeneration, at step 0.
      every: steps between topology steps.
      start: first topology step; None: after one interval.
      prune_stop: step at which the final sparsity is reached; 110 of 160 epochs in the paper.
      stop: topology steps lie before it.
      decay, floor: of the drop fraction, over the steps until ``stop``.
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> GraNet(sparsity=0.9, every=10, prune_stop=60, stop=100).rule().fires(90)
      True

    References:
      Liu et al. 2021, "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration"
      (arXiv 2106.10404).

    Checked against: VITA-Group/GraNet at f338a24, CIFAR/sparselearning/core.py and
    ImageNet/core.py; tests/methods/test_goldens.py::test_a_granet_step_worked_by_hand and
    ::test_granet_follows_its_schedule_and_reaches_its_end.
    Differs from the code: the final sparsity is reached (ImageNet/core.py leaves out its last
    pruning step); ties at thresholds are exact; of a sparsity s, floor(s N) weights are inactive.
    """

    sparsity: float
    initial_sparsity: float = 0.0
    initial_allocation: str | Allocator = "erk"
    drop_fraction: float = 0.5
    every: Duration = 1000
    start: Duration | None = None
    prune_stop: Duration = "68.75%"
    stop: Duration = "100%"
    decay: str = "cosine"
    floor: float = 0.005
    cold_start: str | int = "local_count"
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_drop(self)
        check_cadence(self.every, self.start, self.stop)
        checks.fraction("initial_sparsity", self.initial_sparsity, below_one=True)
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity} exceeds the final sparsity "
                f"{self.sparsity}. Lower it."
            )
        self._rule()

    def _rule(self, **schedule: Any) -> Rule:
        return Rule(
            sparsity=self.sparsity,
            allocation="global",
            first_allocation=self.initial_allocation,
            structure=self.structure,
            drop=scores.magnitude,
            grow=scores.gradient,
            rounding="ceil",
            cold_start=self.cold_start,
            **schedule,
        )

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        when = cadence(self.every, self.start, self.stop, steps, _RULE)
        stop = resolve("prune_stop", self.prune_stop, steps, _RULE)
        ramp = cubic(self.sparsity, when.first, max(stop, when.first), self.initial_sparsity)
        return self._rule(
            cadence=when,
            fraction=drop_schedule(self, steps, _RULE),
            ramp=share_of(ramp, self.sparsity),
        )
