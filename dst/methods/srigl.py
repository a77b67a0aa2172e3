"""SRigL (Lasby et al. 2024): RigL with a constant fan-in, which may switch neurons off."""

from __future__ import annotations

from typing import Literal

from dst.rules import scores
from dst.rules.ablation import ablation
from dst.rules.allocation import Allocator
from dst.rules.durations import by_gradient, drop_schedule
from dst.rules.fields import ColdStart, Decay, Positive, Share, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, update_schedule
from dst.rules.structure import ConstantFanIn

_HINT = "SRigL changes topology every 100 steps until 75 % of training."


@named("srigl", kind="drop and grow")
@method
class SRigL:
    """RigL in which all active neurons of a layer have equally many inputs, and neurons with few
    salient weights are ablated.

    With k dropped weights in a layer, salient are those that magnitude keeps, and the k of largest
    gradient. Active weights that are zero count as dropped. A neuron with fewer salient weights
    than ``gamma`` times its fan-in is ablated. The other neurons share the layer's budget, and
    grow by ``|dL/dw|``. Ablated neurons can come back.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: sparsity per layer; ERK, or uniform for transformers.
      gamma: in [0, 1]; the authors' .3 for CNNs (of the sparse fan-in), .95 for ViT. 0 ablates
        nothing.
      gamma_of: the fan-in that gamma is a share of: ``sparse`` or ``dense``.
      output: pattern of the layer whose neurons are never ablated; None: the last leaf.
      drop_fraction, decay, end_drop_fraction, every, start, stop, accumulate, cold_start: as in
        RigL.

    Example:
      >>> SRigL(sparsity=0.9, stop=7_500).rule().fires(100)
      True

    References:
      Lasby et al. 2024, "Dynamic Sparse Training with Structured Sparsity" (arXiv 2305.02299).

    Checked against: calgaryml/condensed-sparsity at 3052bb8, src/rigl_torch/rigl_constant_fan.py;
    tests/methods/test_goldens.py::test_an_srigl_step_worked_by_hand and
    ::test_srigl_calls_more_gradients_salient_where_active_weights_are_zero.
    Differs from the code: connections are exchanged before the optimizer step of their gradient,
    not after it; where a neuron keeps more weights than its new fan-in, the largest stay (the
    code's choice is arbitrary); a layer's budget is that of its first constant fan-in, which is
    rounded up, where the code rounds the layer's down.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "erk"
    gamma: Share = 0.3
    gamma_of: Literal["sparse", "dense"] = "sparse"
    output: str | None = None
    drop_fraction: Share = 0.3
    decay: Decay = "cosine"
    end_drop_fraction: Share = 0.0
    every: Duration = 100
    start: Duration | None = None
    stop: Duration | None = "75%"
    accumulate: Positive = 1
    cold_start: ColdStart = "local_count"

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        when = update_schedule(self.every, self.start, self.stop, steps, _HINT)
        fraction = drop_schedule(self, steps, _HINT)
        grow, accumulator = by_gradient(self.accumulate, when.every)
        counts = ablation(self.gamma, self.gamma_of, self.output)
        return Rule(
            self.sparsity,
            ConstantFanIn(),
            when,
            HowMany(self.allocation, fraction, counts=counts),
            Which(scores.magnitude, grow, accumulator=accumulator),
            Reset(cold_start=self.cold_start),
        )
