"""GSE (Heddes et al. 2024): growth by gradient within a random subset of connections."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import require_unstructured
from dst.rules.fields import AboveZero, ColdStart, Positive, Share, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, cosine, resolve, update_schedule
from dst.rules.structure import Structure, Unstructured
from dst.rules.together import exchange_together

_HINT = "GSE changes topology every 1000 steps during the first 120 of 200 epochs."


@named("gse", kind="drop and grow")
@method
class GSE:
    """Drops the smallest weights and grows the largest gradients of a random subset.

    Of n active weights in all layers, ``k = floor(n f(t))`` of smallest ``|w|`` are dropped, and
    the k of largest ``|dL/dw|`` are grown at 0 among a subset of the inactive ones:
    about ``subset`` of them per active weight, drawn at random in every layer. Layers compete for
    both. Nothing grows back at the step that drops it. ``f(t) = drop_fraction / 2 (1 + cos(pi t /
    stop))``.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: of the sparsity at the start.
      subset: size of the subset per active weight, above 0; layers that are at least half active
        are looked at as a whole.
      drop_fraction: at step 0, in [0, 1].
      every: steps between topology steps.
      stop: topology steps lie before it; steps or percent.
      min_active: weights that every layer keeps, or all that it has; then fewer are exchanged. The
        code has no such guard.
      cold_start: see :class:`dst.Rule`.
      structure: unstructured only.

    Example:
      >>> GSE(sparsity=0.98, every=100, stop=1000).rule().fires(900)
      True

    References:
      Heddes et al. 2024, "Always-Sparse Training by Growing Connections with Guided Stochastic
      Exploration" (arXiv 2401.06898).

    Checked against: mikeheddes/guided-stochastic-exploration at 4573d3a, our_training.py, grow.py
    (``rigl_random``) and prune.py; a twin in plain loops,
    tests/methods/test_sampled_growth.py::test_gse_equals_its_twin.
    Differs from the code: of its distributions only the uniform one, as the others read the inputs
    of layers; each connection is drawn by its chance of being among the draws; the gradient is
    that of the step, and dense.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "erk"
    subset: AboveZero = 1.0
    drop_fraction: Share = 0.2
    every: Duration = 1000
    stop: Duration = "60%"
    min_active: Positive = 1
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        require_unstructured(self, "draws single connections")
        length = max(resolve("stop", self.stop, steps, _HINT), 1)
        return Rule(
            self.sparsity,
            self.structure,
            update_schedule(self.every, None, self.stop, steps, _HINT),
            HowMany(
                self.allocation,
                cosine(self.drop_fraction, length),
                counts=exchange_together(self.min_active),
            ),
            Which(scores.magnitude, scores.sampled_gradient(self.subset), regrow="forbid"),
            Reset(cold_start=self.cold_start),
        )
