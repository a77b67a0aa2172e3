"""MEST (Yuan et al. 2021): random growth within a memory bound that tightens (EM and EM&S)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from dst.core import checks
from dst.core.typing import Array
from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import check_cadence
from dst.rules.rule import Rule, fires
from dst.rules.schedule import Cadence, Duration, Schedule, exact, resolve
from dst.rules.structure import Structure, Unstructured

_RULE = "MEST changes topology every 5 epochs: give every=<optimizer steps of 5 epochs>."


@dataclass(frozen=True)
class MEST:
    """Drops by ``|w| + lambda |dL/dw|`` and grows at random, between two sparsities per stage.

    In stage i, EM prunes to ``sparsity + extra[i]`` and grows back to ``sparsity``; EM&S
    (``soft_bound``) prunes to ``sparsity`` and grows on to ``sparsity - extra[i]``, so that more
    weights are in use until the next topology step.

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

    sparsity: float
    extra: tuple[float, ...] = (0.02, 0.01, 0.0)
    stages: tuple[Duration, ...] = ("56.25%", "75%")
    soft_bound: bool = False
    gradient_weight: float = 0.0
    allocation: str | Allocator = "uniform"
    every: Duration | None = None
    start: Duration | None = None
    cold_start: str | int = "local_count"
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_cadence(self.every, self.start, None)
        if not self.stages or len(self.extra) != len(self.stages) + 1 or self.extra[-1] != 0:
            raise ValueError(
                "extra must have one entry per stage, one more than there are in `stages`, and "
                f"end with 0, and there are two stages at least, got extra={self.extra} and "
                f"stages={self.stages}."
            )
        for value in self.extra:
            checks.fraction("extra", value, below_one=True)
            worst = self.sparsity - value if self.soft_bound else self.sparsity + value
            checks.fraction("sparsity with its extra", round(worst, 12), below_one=True)
        self._rule()

    def _rule(self, **schedule: Any) -> Rule:
        return Rule(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            drop=importance(self.gradient_weight),
            grow=scores.random,
            regrown="zero",
            cold_start=self.cold_start,
            **schedule,
        )

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        if self.every is None:
            raise ValueError(f"MEST has no cadence. {_RULE}")
        every = resolve("every", self.every, steps, _RULE)
        start = every if self.start is None else resolve("start", self.start, steps, _RULE)
        begins = [resolve("stages", s, steps, _RULE) for s in self.stages]
        sign = -1 if self.soft_bound else 1
        bound = self._share(begins, sign)
        target: Schedule = lambda count: 1.0  # noqa: E731
        return self._rule(
            cadence=Cadence(start, every, begins[-1]),
            ramp=bound if self.soft_bound else target,
            low=target if self.soft_bound else bound,
        )

    def _share(self, begins: list[int], sign: int) -> Schedule:
        def share(count: Any) -> Any:
            stage = sum(count >= begin for begin in begins)
            return (exact(self.sparsity) + sign * exact(self.extra[stage])) / exact(self.sparsity)

        return share


def importance(gradient_weight: float) -> Callable[[scores.Connections], Array]:
    """``|w| + lambda |dL/dw|``."""

    def score(leaf: scores.Connections) -> Array:
        return jnp.abs(leaf.weight) + jnp.float32(gradient_weight) * jnp.abs(leaf.grad)

    return score
