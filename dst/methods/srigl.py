"""SRigL (Lasby et al. 2024): RigL with a constant fan-in, which may switch neurons off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dst.core import checks
from dst.rules import scores
from dst.rules.ablation import ablation
from dst.rules.accumulators import window
from dst.rules.allocation import Allocator
from dst.rules.durations import check_accumulate, check_cadence, check_drop, drop_schedule
from dst.rules.rule import Rule, fires
from dst.rules.schedule import Duration, cadence
from dst.rules.structure import ConstantFanIn, Structure

_RULE = "SRigL changes topology every 100 steps until 75 % of training."


@dataclass(frozen=True)
class SRigL:
    """RigL in which all active neurons of a layer have equally many inputs, and neurons with few
    salient weights are ablated.

    A weight is salient where it is among the weights of the layer that magnitude keeps, or among
    as many of largest gradient as are dropped. A neuron with fewer than ``gamma`` times its fan-in
    of them is ablated; the layer's budget is shared by the others, which grow by ``|dL/dw|``.
    Ablated neurons can come back.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: sparsity per layer; ERK, or uniform for transformers.
      gamma: in [0, 1]; the authors' .3 for CNNs (of the sparse fan-in), .95 for ViT. 0 ablates
        nothing.
      gamma_of: the fan-in that gamma is a share of: ``sparse`` or ``dense``.
      output: pattern of the layer whose neurons are never ablated; None: the last leaf.
      drop_fraction, every, start, stop, decay, floor, accumulate, cold_start: as in RigL.

    Example:
      >>> SRigL(sparsity=0.9, stop=7_500).rule().fires(100)
      True

    References:
      Lasby et al. 2024, "Dynamic Sparse Training with Structured Sparsity" (arXiv 2305.02299).

    Checked against: calgaryml/condensed-sparsity at 3052bb8, src/rigl_torch/rigl_constant_fan.py;
    tests/methods/test_goldens.py::test_an_srigl_step_worked_by_hand.
    Differs from the code: where a neuron keeps more weights than its new fan-in, the largest stay
    (the code's choice is arbitrary); a layer's budget is that of its first constant fan-in, which
    is rounded up, where the code rounds the layer's down.
    """

    sparsity: float
    allocation: str | Allocator = "erk"
    gamma: float = 0.3
    gamma_of: str = "sparse"
    output: str | None = None
    drop_fraction: float = 0.3
    every: Duration = 100
    start: Duration | None = None
    stop: Duration | None = "75%"
    decay: str = "cosine"
    floor: float = 0.0
    accumulate: int = 1
    cold_start: str | int = "local_count"

    fires = fires

    def __post_init__(self) -> None:
        check_drop(self)
        check_cadence(self.every, self.start, self.stop)
        checks.fraction("gamma", self.gamma)
        checks.one_of("gamma_of", self.gamma_of, ("sparse", "dense"))
        check_accumulate(self.accumulate, self.every)
        self._rule()

    def _rule(self, **schedule: Any) -> Rule:
        structure: Structure = ConstantFanIn()
        return Rule(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=structure,
            drop=scores.magnitude,
            grow=scores.gradient if self.accumulate == 1 else scores.remembered,
            memory=None if self.accumulate == 1 else window(self.accumulate),
            budget=ablation(self.gamma, self.gamma_of, self.output),
            cold_start=self.cold_start,
            **schedule,
        )

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        when = cadence(self.every, self.start, self.stop, steps, _RULE)
        check_accumulate(self.accumulate, when.every)
        return self._rule(
            cadence=when,
            fraction=drop_schedule(self, steps, _RULE),
        )
