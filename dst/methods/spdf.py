"""SPDF (Thangarasa et al. 2023): sparse pre-training, dense fine-tuning."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.fields import ColdStart, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, Unresolved, UpdateSchedule, resolve
from dst.rules.structure import Structure, Unstructured

_HINT = "SPDF lifts its masks where fine-tuning begins, which only you know."


@named("spdf", kind="fixed masks")
@method
class SPDF:
    """A random mask that never changes until ``lift``; from then on every weight is active.

    Pruned weights start at 0. All moments start at zero, as in a new optimizer: under Adam-like
    optimizers the bias correction counts from ``lift``. The step that lifts the masks moves
    nothing.

    Args:
      sparsity: of the selected weights before, in [0, 1); the paper's are 0.5 and 0.75.
      lift: the step that lifts the masks; steps or percent.
      allocation: sparsity per layer; the paper's is uniform.
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> SPDF(sparsity=0.75, lift=1000).rule().fires(1000)
      True

    References:
      Thangarasa et al. 2023, "SPDF: Sparse Pre-training and Dense Fine-tuning for Large Language
      Models" (arXiv 2303.10464).

    Checked against: Cerebras/modelzoo at f1fd1e0,
    src/cerebras/modelzoo/models/nlp/gpt3/configs/sparsity (what is sparse; the second phase is a
    run of its own without masks); the paper's abstract;
    tests/methods/test_random_cases.py::test_spdf_equals_two_runs.
    Differs from the configs: both phases are one run, so the learning rate follows one schedule.
    """

    sparsity: Sparsity
    lift: Duration | None = None
    allocation: str | Allocator = "uniform"
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        if self.lift is None:
            raise Unresolved(f"SPDF does not know when to lift its masks: give lift=. {_HINT}")
        lift = resolve("lift", self.lift, steps, _HINT)
        return Rule(
            self.sparsity,
            self.structure,
            UpdateSchedule(lift, 1, lift),
            HowMany(self.allocation, ramp=lambda count: 1.0 if count < lift else 0.0),
            Which(grow=scores.gradient),
            Reset("zero", moments="all", cold_start=self.cold_start),
        )
