"""Gradual magnitude pruning (Zhu and Gupta 2017): from dense to sparse along a cubic ramp."""

from __future__ import annotations

from typing import Literal

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.fields import Sparsity
from dst.rules.method import method, named
from dst.rules.ramps import CURVES, below, compute_window, share_of
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, resolve, update_schedule
from dst.rules.structure import Structure, Unstructured

_HINT = "Gradual pruning starts after some training and ends well before its end."


@named("gmp", kind="gradual pruning")
@method
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

    sparsity: Sparsity
    initial_sparsity: Sparsity = 0.0
    allocation: str | Allocator = "uniform"
    curve: Literal["cubic", "linear", "geometric"] = "cubic"
    compute: bool = False
    every: Duration = 100
    start: Duration = "25%"
    stop: Duration = "75%"
    update_weights: bool = True
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        start, stop = self._window()
        when = update_schedule(self.every, start, stop, steps, _HINT, include_stop=True)
        end = resolve("stop", stop, steps, _HINT)
        curve = CURVES[self.curve](self.sparsity, when.first, end, self.initial_sparsity)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(self.allocation, ramp=share_of(curve, self.sparsity)),
            Which(drop=scores.magnitude),
            Reset(update_weights=self.update_weights),
        )

    def _window(self) -> tuple[Duration, Duration]:
        below("initial_sparsity", self.initial_sparsity, self.sparsity)
        if not self.compute:
            return self.start, self.stop
        ends = (self.start, self.stop)
        if self.initial_sparsity or not all(isinstance(x, str) for x in ends):
            raise ValueError(
                "compute=True reads `start` and `stop` as percentages of the training compute, "
                f"from a dense start: got start={self.start!r}, stop={self.stop!r}, "
                f"initial_sparsity={self.initial_sparsity}."
            )
        shares = [float(str(x).removesuffix("%")) / 100 for x in ends]
        first, last = compute_window(self.sparsity, self.curve, *shares)
        return f"{100 * first:.6f}%", f"{100 * last:.6f}%"
