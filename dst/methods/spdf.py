"""SPDF (Thangarasa et al. 2023): sparse pre-training, dense fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import check_cadence
from dst.rules.rule import Rule, fires
from dst.rules.schedule import Cadence, Duration, resolve
from dst.rules.structure import Structure, Unstructured

_RULE = "SPDF lifts its masks where fine-tuning begins, which only you know."


@dataclass(frozen=True)
class SPDF:
    """A random mask that never changes until ``lift``; from then on every weight is active.

    Weights that were pruned enter at 0; all moments start anew, corrected by their own age where
    the optimizer is Adam-like, as if the optimizer were a new one.

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

    Checked against: the paper's abstract; Cerebras/modelzoo at f1fd1e0,
    src/cerebras/modelzoo/models/nlp/gpt3/configs/sparsity (what is sparse).
    Differs from the paper: both phases are one run, so the learning rate follows one schedule.
    """

    sparsity: float
    lift: Duration | None = None
    allocation: str | Allocator = "uniform"
    cold_start: str | int = "local_count"
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_cadence(None, self.lift, None)
        self._rule(Cadence(0, 1, 0))

    def _rule(self, when: Cadence) -> Rule:
        return Rule(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            grow=scores.gradient,
            cadence=when,
            ramp=lambda count: 1.0 if count < when.first else 0.0,
            regrown="zero",
            forget="all",
            cold_start=self.cold_start,
        )

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        if self.lift is None:
            raise ValueError(f"SPDF does not know when to lift its masks: give lift=. {_RULE}")
        lift = resolve("lift", self.lift, steps, _RULE)
        return self._rule(Cadence(lift, 1, lift))
