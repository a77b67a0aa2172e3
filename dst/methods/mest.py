"""MEST (Yuan et al. 2021): random growth within a memory bound that tightens (EM and EM&S)."""

from __future__ import annotations

from typing import Any

from dst.core import checks
from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.fields import ColdStart, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, Schedule, exact, resolve, update_schedule
from dst.rules.structure import Structure, Unstructured

_HINT = "MEST changes topology every 5 epochs: give every=<optimizer steps of 5 epochs>."


@named("mest", kind="prune and grow")
@method
class MEST:
    """Drops by ``|w| + lambda |dL/dw|`` and grows at random, between two sparsities per stage.

    In stage i, EM prunes to ``sparsity + extra[i]`` and grows back to ``sparsity``. EM&S
    (``soft_bound``) prunes to ``sparsity`` and grows to ``sparsity - extra[i]``.

    Args:
      sparsity: at the end, of the selected weights, in [0, 1).
      extra: per stage, as fractions of all weights; the last must be 0: nothing is exchanged
        then. The authors' are (.02, .01, 0) for EM and (.05, .025, 0) for EM&S at 90 %.
      stages: steps at which the second and later stages begin; epochs 90 and 120 of 160.
      soft_bound: EM&S.
      gradient_weight: lambda; the authors' script has 0, SparCL .5.
      allocation: sparsity per layer.
      every: steps between topology steps; the paper: 5 epochs.
      start: first topology step; None: after one interval.
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> MEST(sparsity=0.9, every=10, stages=(60, 80)).rule().fires(80)
      True

    References:
      Yuan et al. 2021, "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the
      Edge" (arXiv 2110.14032).

    Checked against: boone891214/MEST at a428026, prune_utils/retrain.py and scripts/resnet32; the
    ranking in neu-spiral/SparCL at e9a2159, prune_utils/utils_pr.py;
    tests/methods/test_goldens.py::test_mest_prunes_below_its_sparsity_and_grows_back and
    ::test_mest_ranks_by_magnitude_and_gradient_together.
    Differs from the code: exact counts, where percentiles lose ties; topology stops changing
    where the last stage begins, at which nothing is exchanged any more.
    """

    sparsity: Sparsity
    extra: tuple[float, ...] = (0.02, 0.01, 0.0)
    stages: tuple[Duration, ...] = ("56.25%", "75%")
    soft_bound: bool = False
    gradient_weight: float = 0.0
    allocation: str | Allocator = "uniform"
    every: Duration | None = None
    start: Duration | None = None
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        self._check_stages()
        stages = [resolve("stages", s, steps, _HINT) for s in self.stages]
        when = update_schedule(self.every, self.start, stages[-1], steps, _HINT, include_stop=True)
        target: Schedule = lambda count: 1.0  # noqa: E731
        bound = self._bound(stages, -1 if self.soft_bound else 1)
        ramp, drop_to = (bound, target) if self.soft_bound else (target, bound)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(self.allocation, ramp=ramp, drop_to=drop_to),
            Which(scores.importance(self.gradient_weight), scores.random),
            Reset("zero", cold_start=self.cold_start),
        )

    def _bound(self, stages: list[int], sign: int) -> Schedule:
        def share(count: Any) -> Any:
            extra = exact(self.extra[sum(count >= begin for begin in stages)])
            return (exact(self.sparsity) + sign * extra) / exact(self.sparsity)

        return share

    def _check_stages(self) -> None:
        if not self.stages or len(self.extra) != len(self.stages) + 1 or self.extra[-1] != 0:
            raise ValueError(
                "extra must have one entry more than `stages`, of which there is one at least, "
                f"and end with 0, got extra={self.extra} and stages={self.stages}."
            )
        for value in self.extra:
            checks.fraction("extra", value, below_one=True)
            worst = self.sparsity - value if self.soft_bound else self.sparsity + value
            checks.fraction("sparsity with its extra", round(worst, 12), below_one=True)
