"""Dynamic sparse training (Liu et al. 2020): a trainable threshold for every neuron."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules import latent
from dst.rules.fields import NotNegative, Sparsity
from dst.rules.latent import Latent, LatentLeaf, TrainedScores
from dst.rules.method import method, named

_LEAST = 0.01  # of the weights of a layer


@named("trainable-thresholds", kind="latent weights")
@method
class TrainableThresholds:
    """Uses the weights with ``|w| > t`` and trains the threshold t of every output neuron.

    Gradients pass the step ``|w| > t`` as if its slope were ``H(|w| - t)``: ``2 - 4 |x|`` up to
    0.4, 0.4 up to 1, and 0 beyond. They reach w, in use or not, and t. ``penalty`` times the sum of
    ``exp(-t)`` is added to the loss. Thresholds of a layer that uses 1 % of its weights or less
    become 0. The sparsity is an outcome of training.

    Args:
      expected: the sparsity, in [0, 1), that plans and estimates of costs assume. 0: all leaves
        stay dense.
      penalty: alpha.

    Example:
      >>> TrainableThresholds(expected=0.9).rule().scores is None
      False

    References:
      Liu et al. 2020, "Dynamic Sparse Training: Find Efficient Sparse Network From Scratch With
      Trainable Masked Layers" (arXiv 2005.06870).

    Checked against: junjieliu2910/DynamicSparseTraining at 595c91e, mnist/model/binarization.py and
    mnist/trainer/trainer.py; numbers by hand, a twin in NumPy and autodiff,
    tests/methods/test_learned_thresholds.py.
    Differs from the code: no forward hook; the wrapped optimizer trains t as it trains weights, so
    its weight decay acts on both.
    """

    expected: Sparsity
    penalty: NotNegative = 5e-4

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule; ``steps`` is not needed."""

        def slope(leaf: LatentLeaf) -> Array:
            pull = leaf.grad * leaf.latent * long_tail(rest(leaf))
            return -latent.sum_like(pull, leaf.scores) - self.penalty * jnp.exp(-leaf.scores)

        return Latent(
            self.expected,
            scores=TrainedScores(thresholds, slope, not_empty),
            score=rest,
            counts=latent.above_zero,
            gradient=both_ways,
        )


def thresholds(weight: Array, leaf: Leaf, key: Array) -> Array:
    """0 for every output of every layer."""
    own = zip(leaf.layer_shape, leaf.letters, strict=True)
    shape = tuple(n if letter == "o" else 1 for n, letter in own)
    return jnp.zeros(leaf.shape[: leaf.stacked] + shape, jnp.float32)


def rest(leaf: LatentLeaf) -> Array:
    """``|w| - t``."""
    return jnp.abs(leaf.latent) - leaf.scores


def long_tail(x: Array) -> Array:
    """H, the slope that stands for that of a step."""
    size = jnp.abs(x)
    return jnp.where(size <= 0.4, 2 - 4 * size, jnp.where(size <= 1, 0.4, 0.0))


def both_ways(leaf: LatentLeaf) -> Array:
    """``g (mask + |w| H)``: through the product, and through the mask."""
    through = jnp.abs(leaf.latent) * long_tail(rest(leaf))
    return leaf.grad * (leaf.active + through)


def not_empty(leaf: LatentLeaf) -> Array:
    """The thresholds, or 0 in a layer that would use too few weights."""
    axes = tuple(range(len(leaf.layout.counts), leaf.latent.ndim))
    active = jnp.sum(rest(leaf) > 0, axes, jnp.int32, keepdims=True)
    return jnp.where(active <= int(_LEAST * leaf.layout.units), 0.0, leaf.scores)
