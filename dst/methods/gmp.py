"""Gradual magnitude pruning (Zhu and Gupta 2017): from dense to sparse along a cubic ramp."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dst.core import checks
from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import check_cadence
from dst.rules.rule import Rule, fires
from dst.rules.schedule import (
    Duration,
    Schedule,
    cadence,
    compute_window,
    cubic,
    exact,
    geometric,
    ramp,
    resolve,
)
from dst.rules.structure import Structure, Unstructured

CURVES = {"cubic": cubic, "linear": ramp, "geometric": geometric}
_RULE = "Gradual pruning starts after some training and ends well before its end."


@dataclass(frozen=True)
class GMP:
    """Removes the smallest weights step by step until the sparsity is reached.

    ``s(t) = sparsity + (initial_sparsity - sparsity) (1 - (t - start) / (stop - start))^3``; every
    layer goes the same share of the way to its own sparsity.

    Args:
      sparsity: at the end, in [0, 1).
      initial_sparsity: until ``start``, in [0, sparsity].
      allocation: sparsity per layer; ``uniform`` is the paper's; ``global`` and ``lamp`` let all
        layers compete.
      curve: of the sparsity: ``cubic`` (the paper), ``linear``, or ``geometric``: the same share
        of the remaining weights in every step.
      compute: whether percentages of ``start`` and ``stop`` are shares of the training compute,
        which goes with the active weights; False: shares of the steps.
      every: steps between pruning steps.
      start: first pruning step; steps or percent.
      stop: last pruning step, at which the final sparsity is reached, also where it is off the
        grid of ``every``.
      update_weights: whether the weights take an optimizer step at a pruning step.
      structure: what is switched.

    Example:
      >>> rule = GMP(sparsity=0.9, start=1000, stop=10_000, every=1000).rule()
      >>> rule.fires(10_000)
      True

    References:
      Zhu and Gupta 2017, "To prune, or not to prune" (arXiv 1710.01878), equation 1.

    Checked against: the formula;
    tests/rules/test_schedule.py::test_the_cubic_ramp_of_gradual_pruning and
    tests/engine/test_topology.py::test_the_pruning_ladder.
    Differs from the paper's code: pruned weights are zero and stay out, where TensorFlow's
    pruning keeps their values under the mask, so that they may return; ``start`` and ``stop``
    default to 25 % and 75 % of training, which the paper leaves to the user. JaxPruner's ramp
    (jaxpruner/sparsity_schedules.py at f133ee5) runs one step ahead.
    """

    sparsity: float
    initial_sparsity: float = 0.0
    allocation: str | Allocator = "uniform"
    curve: str = "cubic"
    compute: bool = False
    every: Duration = 100
    start: Duration = "25%"
    stop: Duration = "75%"
    update_weights: bool = True
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        checks.fraction("initial_sparsity", self.initial_sparsity, below_one=True)
        check_cadence(self.every, self.start, self.stop, include_stop=True)
        checks.one_of("curve", self.curve, CURVES)
        if self.compute and not (
            isinstance(self.start, str) and isinstance(self.stop, str) and not self.initial_sparsity
        ):
            raise ValueError(
                "compute=True reads `start` and `stop` as percentages of the training compute, "
                f"from a dense start: got start={self.start!r}, stop={self.stop!r}, "
                f"initial_sparsity={self.initial_sparsity}."
            )
        self._rule()
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity} exceeds the final sparsity "
                f"{self.sparsity}: pruned weights do not come back. Lower it."
            )

    def _rule(self, **schedule: Any) -> Rule:
        return Rule(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            drop=scores.magnitude,
            update_weights=self.update_weights,
            **schedule,
        )

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        start, stop = self._window()
        start = resolve("start", start, steps, _RULE)
        stop = resolve("stop", stop, steps, _RULE)
        return self._rule(
            cadence=cadence(self.every, start, stop, steps, _RULE, include_stop=True),
            ramp=share_of(
                CURVES[self.curve](self.sparsity, start, stop, self.initial_sparsity), self.sparsity
            ),
        )

    def _window(self) -> tuple[Duration, Duration]:
        if not self.compute:
            return self.start, self.stop
        shares = [float(x.removesuffix("%")) / 100 for x in (self.start, self.stop)]  # type: ignore[union-attr]
        first, last = compute_window(self.sparsity, self.curve, *shares)
        return f"{100 * first:.6f}%", f"{100 * last:.6f}%"


def share_of(sparsity_at: Schedule, final: float) -> Schedule:
    """A sparsity schedule as the share of the final sparsity that is due, exact on the host."""

    def share(count: Any) -> Any:
        if final == 0:
            return Fraction(1)
        return exact(sparsity_at(count)) / exact(final)

    return share
