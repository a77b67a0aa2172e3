"""SNIP (Lee et al. 2019): pruning at initialisation by connection sensitivity."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Allocator, Global
from dst.rules.fields import Positive, Sparsity
from dst.rules.method import method, named
from dst.rules.rounds import before_training
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.structure import Structure, Unstructured


@named("snip", kind="pruning at initialisation")
@method
class SNIP:
    """Keeps the weights of largest ``|w dL/dw|`` on the first batch; then the mask is fixed.

    The first ``rounds`` updates prune and train nothing; the sensitivity is that of their batch
    (make it a large one, or accumulate: ``optax.MultiSteps`` around it).

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: ``global`` ranks all layers together (the paper); others fix the sparsity per
        layer (RigL's code).
      min_active: weights that every layer keeps under ``global``; the paper has no such guard.
      rounds: of pruning; after the k-th the density is ``(1 - sparsity) ** (k / rounds)``. More
        than one: :func:`dst.iterative_snip`.
      structure: what is switched.

    Example:
      >>> SNIP(sparsity=0.9).rule().fires(0)
      True

    References:
      Lee et al. 2019, "SNIP: single-shot network pruning based on connection sensitivity"
      (arXiv 1810.02340), section 4.

    Checked against: namhoonlee/snip-public at b00bef0, snip/model.py; a layer by hand,
    tests/methods/test_goldens.py::test_snip_keeps_the_connections_to_which_the_loss_is_sensitive.
    Differs from the code: biases are no candidates; exact counts.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "global"
    min_active: Positive = 1
    rounds: Positive = 1
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        together = Global("saliency", self.min_active)
        allocation = together if self.allocation == "global" else self.allocation
        when, ramp = before_training(self.sparsity, self.rounds)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(allocation, ramp=ramp),
            Which(drop=scores.saliency),
            Reset(update_weights=False),
        )
