"""SynFlow (Tanaka et al. 2020): pruning at initialisation without data."""

from __future__ import annotations

from dst.rules.allocation import Global
from dst.rules.derivatives import FLOW
from dst.rules.fields import Positive, Sparsity
from dst.rules.method import method, named
from dst.rules.rounds import before_training
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.scores import saliency
from dst.rules.structure import Structure, Unstructured


@named("synflow", kind="pruning at initialisation")
@method
class SynFlow:
    """Keeps the weights of largest ``|w| dR/d|w|``: what flows through them, in many rounds.

    ``R`` is the sum of the outputs of the network with ``|w|`` in place of every parameter, for one
    input of ones. After round k of n the density is ``(1 - sparsity) ** (k / n)``, of all layers
    together. The first n updates train nothing; they take ``dR/d|w|`` as gradients, which
    :meth:`dst.SparseTransformation.topology_gradients` computes and ``dst train`` passes on.

    Args:
      sparsity: of the selected weights, in [0, 1).
      rounds: n; the paper: 100.
      min_active: weights that every layer keeps, at least 1.
      structure: what is switched.

    Example:
      >>> SynFlow(sparsity=0.9).rule().when.last
      99

    References:
      Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving
      synaptic flow" (arXiv 2006.05467).

    Checked against: ganguli-lab/Synaptic-Flow at 378fcee, Pruners/pruners.py, and prune.py at
    09f0835; a network by hand, its conservation law and a twin in plain loops,
    tests/methods/test_before_training.py.
    Differs from the code: exact counts; ``min_active``, which only binds where the sparsity leaves
    fewer weights than a layer needs; where ``R`` of a deep network overflows in float32, nothing is
    pruned in that round, and :func:`dst.check_invariants` says so.
    """

    sparsity: Sparsity
    rounds: Positive = 100
    min_active: Positive = 1
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        when, ramp = before_training(self.sparsity, self.rounds)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(Global("saliency", self.min_active), ramp=ramp),
            Which(saliency, derivative=FLOW),
            Reset(update_weights=False),
        )
