"""SR-STE (Zhou et al. 2021): N:M weights from dense ones, recomputed at every step."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from dst.core.typing import Array
from dst.rules.fields import NotNegative
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.structure import NM


@named("sr-ste", kind="latent weights")
@method
class SRSTE:
    """Uses the ``n`` largest of every ``m`` dense weights; the gradient goes to all of them.

    ``g + decay (1 - mask) w`` is the gradient for the dense weights, which the optimizer state
    keeps; the parameters are ``w mask``, valid N:M at every step.

    Args:
      n, m: the pattern.
      decay: lambda; the paper's is 2e-4. 0 is the plain straight-through estimator.

    Example:
      >>> SRSTE(2, 4).rule().sparsity
      0.5

    References:
      Zhou et al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"
      (arXiv 2102.04010), equation 8.

    Checked against: NM-sparsity/NM-sparsity at 3cebd6b, devkit/sparse_ops/sparse_ops.py;
    tests/engine/test_latent.py::test_sr_ste_moves_dense_weights_by_the_golden_numbers.
    Differs from the code: no forward hook; groups never straddle the window of a convolution, so
    a first convolution of three channels stays dense by an override.
    """

    n: int = 2
    m: int = 4
    decay: NotNegative = 2e-4

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule; ``steps`` is not needed."""
        structure = NM(self.n, self.m)
        return Latent(float(structure.sparsity), structure, gradient=regularised(self.decay))


def regularised(decay: float) -> Callable[[LatentLeaf], Array]:
    """``g + decay w`` on inactive weights, ``g`` on active ones."""

    def gradient(leaf: LatentLeaf) -> Array:
        pruned = jnp.where(leaf.active, 0.0, leaf.latent)
        return leaf.grad + jnp.float32(decay) * pruned

    return gradient
