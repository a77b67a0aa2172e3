"""GraNet (Liu et al. 2021): gradual global pruning, and regeneration by gradient."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import drop_schedule
from dst.rules.fields import ColdStart, Decay, Share, Sparsity
from dst.rules.method import method, named
from dst.rules.ramps import below, cubic, share_of
from dst.rules.rule import HowMany, Reset, Rule, Start, Which
from dst.rules.schedule import Duration, resolve, update_schedule
from dst.rules.structure import Structure, Unstructured

_HINT = "GraNet prunes every 1000 steps (4000 on ImageNet) for the first part of training."


@named("granet", kind="prune and grow")
@method
class GraNet:
    """Prunes by magnitude over all layers, then regrows by gradient, at each topology step.

    Pruning follows a cubic schedule. Then every layer exchanges a share of its smallest weights
    for those of largest gradient.

    Args:
      sparsity: at the end of pruning, in [0, 1).
      initial_sparsity: at the start: 0 goes from dense to sparse; 0.5 is the paper's
        sparse-to-sparse setting.
      initial_allocation: sparsity per layer at the start, where that is not dense.
      drop_fraction: of the regeneration, at step 0.
      every: steps between topology steps.
      start: first topology step, at which pruning has not begun; None: after one interval, with
        pruning from step 0, as in the authors' scripts.
      prune_stop: the final sparsity is reached at the last topology step until it; 110 of 160
        epochs in the paper.
      stop: topology steps lie before it.
      decay, end_drop_fraction: of the drop fraction, over the steps until ``stop``.
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> GraNet(sparsity=0.9, every=10, prune_stop=60, stop=100).rule().fires(90)
      True

    References:
      Liu et al. 2021, "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration"
      (arXiv 2106.10404).

    Checked against: VITA-Group/GraNet at f338a24, CIFAR/sparselearning/core.py (``pruning``, lines
    369 to 381) and ImageNet/core.py;
    tests/methods/test_goldens.py::test_a_granet_step_worked_by_hand and
    ::test_granet_follows_its_schedule_and_reaches_its_end.
    Differs from the code: the final sparsity is reached, as in CIFAR/ (ImageNet/core.py leaves out
    its last pruning step); ties at thresholds are exact; of a sparsity s, floor(s N) weights are
    inactive; connections are exchanged before the optimizer step of their gradient.
    """

    sparsity: Sparsity
    initial_sparsity: Sparsity = 0.0
    initial_allocation: str | Allocator = "erk"
    drop_fraction: Share = 0.5
    every: Duration = 1000
    start: Duration | None = None
    prune_stop: Duration = "68.75%"
    stop: Duration = "100%"
    decay: Decay = "cosine"
    end_drop_fraction: Share = 0.005
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        below("initial_sparsity", self.initial_sparsity, self.sparsity)
        when = update_schedule(self.every, self.start, self.stop, steps, _HINT)
        fraction = drop_schedule(self, steps, _HINT)
        origin = 0 if self.start is None else when.first
        stop = resolve("prune_stop", self.prune_stop, steps, _HINT)
        end = max(stop - (stop - origin) % when.every, when.first)
        ramp = share_of(cubic(self.sparsity, origin, end, self.initial_sparsity), self.sparsity)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany("global", fraction, "ceil", ramp),
            Which(scores.magnitude, scores.gradient),
            Reset(cold_start=self.cold_start),
            Start(allocation=self.initial_allocation),
        )
