"""GraSP (Wang et al. 2020): pruning at initialisation that preserves the gradient flow."""

from __future__ import annotations

from dst.rules.allocation import Allocator, Global
from dst.rules.derivatives import HESSIAN_GRADIENT
from dst.rules.fields import AboveZero, Positive, Sparsity
from dst.rules.method import method, named
from dst.rules.rounds import before_training
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.scores import signed_saliency
from dst.rules.structure import Structure, Unstructured


@named("grasp", kind="pruning at initialisation")
@method
class GraSP:
    """Removes the weights of largest ``-w (H g)``: without them the gradient stays largest.

    ``g`` is the gradient of the loss, ``H`` its Hessian, both with respect to the selected weights.
    The first update prunes and trains nothing; it takes ``H g`` of its batch as gradients, which
    :meth:`dst.SparseTransformation.topology_gradients` computes and ``dst train`` passes on.

    Args:
      sparsity: of the selected weights, in [0, 1).
      temperature: by which logits are divided before this loss, as in the authors' code. The larger
        it is, the more the curvature of the network itself weighs, and not that of the softmax.
        ``dst train`` divides; in a loop of your own, your loss does. 1 for a loss without softmax.
      min_active: weights that every layer keeps under ``global``; the paper has no such guard.
      allocation: ``global`` ranks all layers together (the paper); others fix the sparsity per
        layer.
      structure: what is switched.

    Example:
      >>> GraSP(sparsity=0.9).rule().fires(0)
      True

    References:
      Wang et al. 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow"
      (arXiv 2002.07376).

    Checked against: alecwangcq/GraSP at f166054, pruner/GraSP.py; a layer by hand and a twin in
    plain loops, tests/methods/test_before_training.py.
    Differs from the code: exact counts, there one weight more stays; the batch is any, there it has
    equally many examples of each class; linear layers are not drawn again before the scores.
    """

    sparsity: Sparsity
    temperature: AboveZero = 200.0
    min_active: Positive = 1
    allocation: str | Allocator = "global"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        allocation, (when, ramp) = self.allocation, before_training(self.sparsity, 1)
        if allocation == "global":
            allocation = Global("signed_saliency", self.min_active)
        derivative = HESSIAN_GRADIENT._replace(temperature=self.temperature)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(allocation, ramp=ramp),
            Which(signed_saliency, derivative=derivative),
            Reset(update_weights=False),
        )
