"""Movement pruning (Sanh et al. 2020): keeps the weights that move away from zero."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.allocation import Allocator
from dst.rules.fields import Sparsity
from dst.rules.latent import Latent, LatentLeaf, TrainedScores
from dst.rules.method import method, named
from dst.rules.ramps import cubic, share_of
from dst.rules.schedule import Duration, window
from dst.rules.structure import Structure, Unstructured

_HINT = "The authors prune between the end of the warm-up and the last tenth of fine-tuning."
_STAGES = 100


@named("movement", kind="latent weights")
@method
class Movement:
    """Trains a score S beside every weight and uses the weights of highest S in each layer.

    ``dL/dS = dL/dw_used w``, straight through the choice: the score of a weight rises while its
    step leads away from zero, whether it is in use or not. Scores start at 0. The sparsity rises
    along a cubic curve in at most 100 stages. Weights that are not in use get no gradient;
    momentum and weight decay still move them.

    Args:
      sparsity: of the selected weights at the end, in [0, 1). The authors' flags give the kept
        fraction.
      allocation: sparsity per layer; the paper's is uniform.
      start, stop: of the curve; steps or percent.
      structure: what is switched; its scores are sums over its weights.

    Example:
      >>> Movement(sparsity=0.85, start=0, stop=1000).rule().stages[-1]
      1000

    References:
      Sanh et al. 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (arXiv 2005.07683).

    Checked against: huggingface/block_movement_pruning at 24983af,
    block_movement_pruning/emmental/modules/masked_nn.py (weights times mask, ``topK``); scores by
    hand and a loop with a forward hook, tests/methods/test_movement.py.
    Differs from the code: no forward hook: the optimizer state holds scores and weights. The
    wrapped optimizer trains scores as it trains weights, there with a learning rate of their own
    and without weight decay. Of a sparsity s, floor(s N) weights are not in use.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "uniform"
    start: Duration = "10%"
    stop: Duration = "90%"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        start, stop = window(self.start, self.stop, steps, _HINT)
        n = min(_STAGES, stop - start)
        stages = tuple(start + (stop - start) * (k + 1) // n for k in range(n))
        share = share_of(cubic(self.sparsity, start, stop), self.sparsity)
        return Latent(
            self.sparsity,
            self.structure,
            self.allocation,
            scores=TrainedScores(zeros, movement),
            score=lambda leaf: leaf.scores,
            gradient=lambda leaf: jnp.where(leaf.active, leaf.grad, 0.0),
            stages=stages,
            ramp=lambda k: share(stages[k - 1]) if k else 0,
        )


def zeros(weight: Array, leaf: Leaf, key: Array) -> Array:
    """No weight has moved."""
    return jnp.zeros_like(weight)


def movement(leaf: LatentLeaf) -> Array:
    """``dL/dw_used w``: negative where descent leads away from zero."""
    return leaf.grad * leaf.latent
