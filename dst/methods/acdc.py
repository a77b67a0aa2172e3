"""AC/DC (Peste et al. 2021): sparse and dense phases in turn."""

from __future__ import annotations

from typing import Any

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.fields import Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, Schedule, UpdateSchedule, update_schedule
from dst.rules.structure import Structure, Unstructured

_HINT = "AC/DC alternates every 5 of 100 epochs, from epoch 10 to the last compression at 85."


@named("ac-dc", kind="prune and grow", trained_with="momentum")
@method
class ACDC:
    """Compresses to the weights of largest magnitude, decompresses to all, and ends sparse.

    After a dense warm-up until ``start``, phases of ``every`` steps alternate. In a sparse phase
    only the largest weights are active. In a dense phase all are: pruned weights start at 0, and
    all moments at zero. The phase that begins at ``stop`` is sparse, the one before it dense
    (twice as long where the parity needs it).

    Args:
      sparsity: of the sparse phases, in [0, 1).
      allocation: ``global`` (the paper) or per layer.
      every: length of a phase.
      start: first compression.
      stop: last compression.
      structure: what is switched.

    Example:
      >>> rule = ACDC(sparsity=0.9).rule(steps=100)
      >>> "".join("S" if rule.how_many.ramp(t) else "D" for t in range(5, 100, 5))
      'DSDSDSDSDSDSDSDDSSS'

    References:
      Peste et al. 2021, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural
      Networks" (arXiv 2106.12379).

    Checked against: IST-DASLab/ACDC at ac53210, policies/pruners.py and the phases of
    configs/neurips/iht_imagenet_resnet50_insta_cosinelr_s90_ep100.yaml;
    tests/methods/test_goldens.py::test_acdc_alternates_as_on_imagenet and
    ::test_an_acdc_cycle_worked_by_hand.
    Differs from the code: exact counts, where ties at its threshold are lost; at a decompression
    the step itself moves nothing, so that every weight starts with a whole moment; a layer of
    which nothing was pruned trains as before.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "global"
    every: Duration = "5%"
    start: Duration = "10%"
    stop: Duration = "85%"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        when = update_schedule(self.every, self.start, self.stop, steps, _HINT, include_stop=True)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(self.allocation, ramp=phases(when)),
            Which(drop=scores.magnitude, grow=scores.magnitude),
            Reset("zero", moments="all"),
        )


def phases(when: UpdateSchedule) -> Schedule:
    """1 in sparse phases, 0 in dense ones."""
    last = len(when.steps()) - 1

    def compressed(count: Any) -> float:
        if count < when.first:
            return 0.0
        k = last if count >= when.last else (count - when.first) // when.every
        return 1.0 if k == last or (k % 2 == 0 and k < last - 1) else 0.0

    return compressed
