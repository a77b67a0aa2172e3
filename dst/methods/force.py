"""FORCE (de Jorge et al. 2021): pruning before training, in which pruned weights may return."""

from __future__ import annotations

from dst.rules.accumulators import FIRST_WEIGHTS
from dst.rules.allocation import Global
from dst.rules.counts import compete_again
from dst.rules.fields import Positive, Sparsity
from dst.rules.method import method, named
from dst.rules.rounds import before_training
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.scores import first_saliency
from dst.rules.structure import Structure, Unstructured


@named("force", kind="pruning at initialisation")
@method
class FORCE:
    """Keeps the weights of largest ``|w_0 dL/dw|``, whether they are pruned so far or not.

    Before training there are ``rounds`` rounds, each on a batch of its own. The gradient is that of
    the pruned network, ``w_0`` are all weights of initialisation. A weight that returns has its
    value of initialisation. After round k of n the density is ``(1 - sparsity) ** (k / n)``, of all
    layers together. The first n updates train nothing.

    Args:
      sparsity: of the selected weights, in [0, 1).
      rounds: n; the default of the authors' script is 10.
      min_active: weights that every layer keeps, at least 1; the paper has no such guard.
      structure: what is switched.

    Example:
      >>> FORCE(sparsity=0.9).rule().when.last
      9

    References:
      de Jorge et al. 2021, "Progressive Skeletonization: Trimming more fat from a network at
      initialization" (arXiv 2006.09081).

    Checked against: naver/force at 7494eed, pruning/pruning_algos.py (``prune_method=3``, "exp")
    and mask_networks.py; a twin in plain loops, tests/methods/test_before_training.py.
    Differs from the code: exact counts; the weights of initialisation stay in the optimizer state.
    """

    sparsity: Sparsity
    rounds: Positive = 10
    min_active: Positive = 1
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        when, ramp = before_training(self.sparsity, self.rounds)
        allocation = Global("magnitude", self.min_active)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(allocation, ramp=ramp, counts=compete_again(first_saliency, self.min_active)),
            Which(first_saliency, first_saliency, accumulator=FIRST_WEIGHTS),
            Reset(update_weights=False, cold_start="off", grown_value="accumulated"),
        )
