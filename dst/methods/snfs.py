"""SNFS (Dettmers and Zettlemoyer 2019): growth by momentum, which also moves layers' budgets."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.accumulators import adams_moments, momentum
from dst.rules.allocation import Allocator
from dst.rules.durations import drop_schedule, require_unstructured
from dst.rules.fields import BelowOne, ColdStart, Decay, Share, Sparsity
from dst.rules.method import method, named
from dst.rules.redistribution import redistribution
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, update_schedule
from dst.rules.structure import Structure, Unstructured

_HINT = "SNFS prunes and regrows at the end of every epoch: give every=<steps of one epoch>."


@named("snfs", kind="drop and grow")
@method
class SNFS:
    """Sparse momentum: drops the smallest weights, grows where the momentum of the dense gradient
    is largest, and moves connections between layers.

    ``m = beta m + g`` over raw gradients; a layer's share of the regrowth is the mean ``|m|`` of
    its active weights over the sum of these means. A weight that is dropped and grows back at one
    step keeps its value.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: at the start; the paper's is uniform.
      drop_fraction: at step 0, in [0, 1].
      every: steps between topology steps. The paper: one epoch, which only you know.
      start, stop: first topology step, and the step before which the last one lies.
      decay: ``cosine`` (the code), ``linear`` or ``constant``.
      end_drop_fraction: at the end of the decay.
      beta: of the momentum.
      b2: of Adam's second moment v of the dense gradient: ``|m| / (sqrt(v) + 1e-8)`` takes the
        place of ``|m|``, as in the code under Adam (.999). None: as in the code under SGD.
      redistribute: whether connections move between layers. False: RigL's code for its
        "momentum" baseline.
      cold_start: see :class:`dst.Rule`.
      structure: unstructured only.

    Example:
      >>> SNFS(sparsity=0.9, every=100, stop=1000).rule().fires(900)
      True

    References:
      Dettmers and Zettlemoyer 2019, "Sparse Networks from Scratch" (arXiv 1907.04840).

    Checked against: TimDettmers/sparse_learning at e19ff16, sparselearning/core.py and funcs.py;
    tests/methods/test_goldens.py::test_snfs_gives_each_layer_its_share_of_the_regrowth and
    ::test_a_weight_that_snfs_drops_and_regrows_keeps_its_value.
    Differs from the code: the sum of active weights is kept exactly, layers' shares rounded so
    that they add up, where the code corrects its drift from epoch to epoch; grown weights lose
    stale optimizer state; growth is scored by the momentum after this step's gradient.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "uniform"
    beta: Sparsity = 0.9
    b2: BelowOne | None = None
    redistribute: bool = True
    every: Duration | None = None
    start: Duration | None = None
    stop: Duration | None = "100%"
    drop_fraction: Share = 0.5
    end_drop_fraction: Share = 0.005
    decay: Decay = "cosine"
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        if self.redistribute:
            require_unstructured(self, "moves single connections between layers")
        counts = redistribution if self.redistribute else None
        fraction = drop_schedule(self, steps, _HINT)
        grow, accumulator = scores.accumulated, momentum(self.beta)
        if self.b2 is not None:
            grow, accumulator = scores.normalised_momentum, adams_moments(self.beta, self.b2)
        return Rule(
            self.sparsity,
            self.structure,
            update_schedule(self.every, self.start, self.stop, steps, _HINT),
            HowMany(self.allocation, fraction, "ceil", counts=counts),
            Which(scores.magnitude, grow, accumulator=accumulator),
            Reset(cold_start=self.cold_start),
        )
