"""STR (Kusupati et al. 2020): weights shrink by a threshold that every layer learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.fields import NotNegative, Sparsity
from dst.rules.latent import Latent, LatentLeaf, TrainedScores, above_zero, sum_like
from dst.rules.method import method, named


@named("str", kind="latent weights")
@method
class STR:
    """Uses ``sign(w) max(|w| - sigmoid(s), 0)`` and trains the scalar s of every layer.

    A weight in use gets the gradient ``g``, and others none. ``dL/ds = -sigmoid'(s) sum(g
    sign(w))`` over the weights in use. Weight decay of s raises the threshold: under gradient
    descent s falls to zero in size as ``exp(-rate decay t)``. The sparsity is an outcome of
    training, in every layer another one.

    Args:
      expected: the sparsity, in [0, 1), that plans and estimates of costs assume. 0: all leaves
        stay dense.
      start: of s. At the paper's -3200 the threshold is zero in float32, and decay alone moves s.
        That takes the learning rates of SGD; Adam's steps are too small for it.
      decay: ``decay s`` is added to the gradient of s. The optimizer's weight decay acts on s, too.

    Example:
      >>> STR(expected=0.9).rule().scores is None
      False

    References:
      Kusupati et al. 2020, "Soft Threshold Weight Reparameterization for Learnable Sparsity"
      (arXiv 2002.03231).

    Checked against: RAIVNLab/STR at 310ffb1, utils/conv_type.py (``sparseFunction``), and its
    configs/largescale/resnet50-str.yaml; numbers by hand and a twin in NumPy,
    tests/methods/test_learned_thresholds.py.
    Differs from the code: no forward hook; the wrapped optimizer trains s as it trains weights. The
    first forward pass uses weights that have not shrunk, which are the same at the paper's start.
    """

    expected: Sparsity
    start: float = -3200.0
    decay: NotNegative = 0.0

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule; ``steps`` is not needed."""

        def start(weight: Array, leaf: Leaf, key: Array) -> Array:
            own = (1,) * (weight.ndim - leaf.stacked)
            return jnp.full(weight.shape[: leaf.stacked] + own, self.start, jnp.float32)

        def slope(leaf: LatentLeaf) -> Array:
            threshold = jax.nn.sigmoid(leaf.scores)
            pull = jnp.where(leaf.active, leaf.grad * jnp.sign(leaf.latent), 0.0)
            falls = threshold * (1 - threshold) * sum_like(pull, leaf.scores)
            return jnp.float32(self.decay) * leaf.scores - falls

        return Latent(
            self.expected,
            scores=TrainedScores(start, slope),
            score=lambda leaf: jnp.abs(leaf.latent) - jax.nn.sigmoid(leaf.scores),
            counts=above_zero,
            weight=shrunk,
            gradient=lambda leaf: jnp.where(leaf.active, leaf.grad, 0.0),
        )


def shrunk(leaf: LatentLeaf) -> Array:
    """``sign(w) (|w| - sigmoid(s))``, where that is in use."""
    return jnp.sign(leaf.latent) * (jnp.abs(leaf.latent) - jax.nn.sigmoid(leaf.scores))
