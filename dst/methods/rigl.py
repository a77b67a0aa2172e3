"""RigL (Evci et al. 2020): drop by magnitude, grow by gradient. And its ITOP form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dst.rules import scores
from dst.rules.accumulators import window
from dst.rules.allocation import Allocator
from dst.rules.durations import check_accumulate, check_cadence, check_drop, drop_schedule
from dst.rules.rule import Rule, fires
from dst.rules.schedule import Duration, cadence
from dst.rules.structure import Structure, Unstructured

_RULE = "RigL changes topology every 100 steps until 75 % of training (25k of 32k on ImageNet)."


@dataclass(frozen=True)
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
      start: first topology step; None: after one interval. RigL's TF1 code and JaxPruner start
        at 0, most PyTorch ports after one interval.
      stop: topology steps lie before it; steps or percent. None: never stops, which needs a
        constant drop fraction.
      decay: ``cosine`` (the paper), ``constant`` (default flag of the TF1 code) or ``linear``.
      floor: drop fraction at the end of the decay.
      rounding: of ``n f``: ``floor`` (RigL, SRigL), ``ceil`` (ITOP, GraNet, SNFS), ``round``.
      regrow: ``allow`` a connection dropped now to grow back now (RigL's TF1 code, JaxPruner,
        most ports) or ``forbid`` it (GSE, SMET).
      regrown: value of such a connection: ``keep`` (the TF1 code) or ``zero`` (paper text).
      update_weights: whether the others take an optimizer step at a topology step. The paper,
        the TF1 code and JaxPruner: no. ITOP, SRigL, Cerebras: yes.
      accumulate: steps whose mean gradient is the grow score: the last ones up to the topology
        step (SRigL's and Cerebras' code; to emulate a larger batch there, at most ``every``).
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> RigL(sparsity=0.9, stop=7_500).rule().fires(100)
      True

    References:
      Evci et al. 2020, "Rigging the Lottery" (arXiv 1911.11134), section 3, algorithm 1.

    Checked against: google-research/rigl at d39fc7d, rigl/sparse_optimizers_base.py and the
    ResNet-50 tables of README.md (allocation, FLOPs);
    tests/engine/test_topology.py::test_a_rigl_step_worked_by_hand and
    tests/methods/test_methods.py::test_rigl_in_nine_steps_worked_by_hand.
    Differs from the code: the drop score has no noise, which there can keep an inactive
    connection; ties go to the lowest index; the step count advances at topology steps too (as in
    JaxPruner).
    """

    sparsity: float
    allocation: str | Allocator = "erk"
    drop_fraction: float = 0.3
    every: Duration = 100
    start: Duration | None = None
    stop: Duration | None = "75%"
    decay: str = "cosine"
    floor: float = 0.0
    rounding: str = "floor"
    regrow: str = "allow"
    regrown: str = "keep"
    update_weights: bool = False
    accumulate: int = 1
    cold_start: str | int = "local_count"
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_drop(self)
        check_cadence(self.every, self.start, self.stop)
        check_accumulate(self.accumulate, self.every)
        self._rule()

    def _rule(self, **schedule: Any) -> Rule:
        return Rule(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            drop=scores.magnitude,
            grow=scores.gradient if self.accumulate == 1 else scores.remembered,
            memory=None if self.accumulate == 1 else window(self.accumulate),
            rounding=self.rounding,
            regrow=self.regrow,
            regrown=self.regrown,
            update_weights=self.update_weights,
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
