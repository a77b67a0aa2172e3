"""RigL (Evci et al. 2020): drop by magnitude, grow by gradient. And its ITOP form."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import by_gradient, drop_schedule
from dst.rules.fields import (
    ColdStart,
    Decay,
    Moments,
    Positive,
    Regrow,
    RegrowValue,
    Rounding,
    Share,
    Sparsity,
)
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, update_schedule
from dst.rules.structure import Structure, Unstructured

_HINT = "RigL changes topology every 100 steps until 75 % of training (25k of 32k on ImageNet)."


@named("rigl", kind="drop and grow")
@method
class RigL:
    """Drops the smallest weights, grows those with the largest gradient.

    At step t, in every layer with n active weights: ``k = floor(n f(t))`` active weights of
    smallest ``|w|`` are dropped and the k others of largest ``|dL/dw|`` are activated at 0, with
    ``f(t) = drop_fraction / 2 (1 + cos(pi t / stop))``.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: sparsity per layer; the paper's is ERK, or uniform with a dense first layer.
      drop_fraction: at step 0, in [0, 1].
      every: steps between topology steps.
      start: first topology step; None: after one interval. The TF1 code and JaxPruner: 0.
      stop: topology steps lie before it. None: never stops, for a constant drop fraction.
      decay: ``cosine`` (the paper), ``constant`` (the TF1 code's default flag) or ``linear``.
      end_drop_fraction: at the end of the decay.
      rounding: of ``n f``: ``floor`` (RigL, SRigL), ``ceil`` (ITOP, GraNet, SNFS), ``round``.
      regrow: ``allow`` a connection dropped now to grow back now (most codes) or ``forbid`` it
        (GSE, SMET).
      regrow_value: of such a connection: ``keep`` (the TF1 code) or ``zero`` (paper text).
      moments: which become zero: those of ``changed`` weights, dropped or grown (ITOP, SRigL), or
        of ``grown`` ones alone (the TF1 code: those of dropped weights decay).
      update_weights: whether others take an optimizer step at a topology step (ITOP, SRigL).
      accumulate: last steps whose mean gradient is the grow score, at most ``every`` (SRigL).
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> RigL(sparsity=0.9, stop=7_500).rule().fires(100)
      True

    References:
      Evci et al. 2020, "Rigging the Lottery" (arXiv 1911.11134), section 3, algorithm 1.

    Checked against: google-research/rigl at d39fc7d, rigl/sparse_optimizers_base.py and README.md
    (ResNet-50: allocation, FLOPs); tests/engine/test_topology.py::test_a_rigl_step_worked_by_hand
    and tests/methods/test_methods.py::test_rigl_in_nine_steps_worked_by_hand.
    Differs from the code: the drop score has no noise, which there can keep an inactive
    one; ties go to the lowest index; the step count advances at topology steps too, as in
    JaxPruner; with a late ``start`` f still ends at ``stop``, there ``start`` steps before it.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "erk"
    drop_fraction: Share = 0.3
    every: Duration = 100
    start: Duration | None = None
    stop: Duration | None = "75%"
    decay: Decay = "cosine"
    end_drop_fraction: Share = 0.0
    rounding: Rounding = "floor"
    regrow: Regrow = "allow"
    regrow_value: RegrowValue = "keep"
    moments: Moments = "changed"
    update_weights: bool = False
    accumulate: Positive = 1
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        when = update_schedule(self.every, self.start, self.stop, steps, _HINT)
        fraction = drop_schedule(self, steps, _HINT)
        grow, accumulator = by_gradient(self.accumulate, when.every)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(self.allocation, fraction, self.rounding),
            Which(scores.magnitude, grow, regrow=self.regrow, accumulator=accumulator),
            Reset(self.regrow_value, self.moments, self.update_weights, self.cold_start),
        )
