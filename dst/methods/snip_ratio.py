"""Random masks with SNIP's sparsity per layer (Liu et al. 2022)."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Global
from dst.rules.fields import Positive, Sparsity
from dst.rules.method import method, named
from dst.rules.rounds import before_training
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.structure import Structure, Unstructured


@named("snip-ratio", kind="pruning at initialisation")
@method
class SNIPRatio:
    """As many weights per layer as SNIP keeps on the first batch, at random positions.

    The first update prunes and trains nothing; then the mask is fixed. What SNIP chooses within a
    layer is forgotten.

    Args:
      sparsity: of the selected weights, in [0, 1).
      min_active: weights that every layer keeps, at least 1.
      structure: what is switched.

    Example:
      >>> SNIPRatio(sparsity=0.9).rule().fires(0)
      True

    References:
      Liu et al. 2022, "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive
      Baseline for Sparse Training" (arXiv 2202.02643).

    Checked against: VITA-Group/Random_Pruning at 44c3d30, CIFAR/sparselearning/core.py (mode
    "snip"); a twin in plain loops, tests/methods/test_before_training.py.
    Differs from the code: exact counts, there every weight is drawn with the density of its layer;
    SNIP scores the weights of the run, there others, drawn by Xavier's rule.
    """

    sparsity: Sparsity
    min_active: Positive = 1
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        when, ramp = before_training(self.sparsity, 1)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(Global("saliency", self.min_active), ramp=ramp),
            Which(scores.random),
            Reset(update_weights=False),
        )
