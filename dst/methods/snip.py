"""SNIP (Lee et al. 2019): pruning at initialisation by connection sensitivity."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Allocator, Global
from dst.rules.fields import Positive, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import UpdateSchedule
from dst.rules.structure import Structure, Unstructured


@named("snip")
@method
class SNIP:
    """Keeps the weights of largest ``|w dL/dw|`` on the first batch; then the mask is fixed.

    The first update prunes and trains nothing; the sensitivity is that of its batch (make it a
    large one, or accumulate: ``optax.MultiSteps`` around it).

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: ``global`` ranks all layers together (the paper); others fix the sparsity per
        layer (RigL's code).
      min_active: weights that every layer keeps under ``global``; the paper has no such guard.
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
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        together = Global("saliency", self.min_active)
        return Rule(
            self.sparsity,
            self.structure,
            UpdateSchedule(0, 1, 0),
            HowMany(
                together if self.allocation == "global" else self.allocation,
                ramp=lambda count: 0.0 if count < 0 else 1.0,
            ),
            Which(drop=scores.saliency),
            Reset(update_weights=False),
        )
