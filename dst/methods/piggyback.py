"""Piggyback (Mallya et al. 2018): learns which weights of a frozen network a new task uses."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules import latent
from dst.rules.fields import AboveZero, Sparsity
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named


@named("piggyback", kind="latent weights")
@method
class Piggyback:
    """Trains a real number m per weight and uses the weights with ``m > threshold``.

    ``dL/dm = dL/dw_used w``, straight through the threshold. Weights keep their values. The
    sparsity is an outcome of training; at first all weights are in use.

    Args:
      expected: the sparsity, in [0, 1), that plans and estimates of costs assume. 0: all leaves
        stay dense.
      threshold: tau.
      start: of m, above the threshold.
      train_dense: whether leaves without mask are trained: there, the head of the task. The
        authors freeze biases; ``optimizer.trainable`` does that.

    Example:
      >>> Piggyback(expected=0.3).rule().fix is None
      False

    References:
      Mallya, Davis and Lazebnik 2018, "Piggyback: Adapting a Single Network to Multiple Tasks by
      Learning to Mask Weights" (arXiv 1801.06519).

    Checked against: arunmallya/piggyback at 3529efd, src/modnets/layers.py (``Binarizer``,
    ``ElementWiseLinear``: 0.01, 0.005); steps by hand, a loop with a forward hook and autodiff,
    tests/methods/test_piggyback.py.
    Differs from the code: no forward hook: the optimizer state holds m and the weights. The
    optimizer's weight decay acts on m. Left out: ternary masks, random m, and its optional division
    of gradients by sizes of weights.
    """

    expected: Sparsity
    threshold: AboveZero = 5e-3
    start: AboveZero = 1e-2
    train_dense: bool = True

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule; ``steps`` is not needed."""
        if self.start <= self.threshold:
            raise ValueError(
                f"start must be above threshold={self.threshold:g}, so that weights are in use at "
                f"first, got {self.start:g}."
            )

        def start(weight: Array, leaf: Leaf, key: Array) -> Array:
            return jnp.full(weight.shape, self.start, jnp.float32)

        return Latent(
            self.expected,
            start=start,
            fix=lambda weight, leaf: weight,
            score=lambda leaf: leaf.latent - jnp.float32(self.threshold),
            counts=latent.above_zero,
            weight=lambda leaf: leaf.fixed,
            gradient=through,
            train_dense=self.train_dense,
        )


def through(leaf: LatentLeaf) -> Array:
    """``dL/dw_used w``, of weights in use and of all others."""
    return leaf.grad * leaf.fixed
