"""S-STE (Hu et al. 2024): N:M weights that depend on dense ones without jumps."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from dst.core.reductions import exact_sum
from dst.core.selection import top_k_mask
from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.layout import Layout
from dst.rules.method import method, named
from dst.rules.structure import NM, structure_of


@named("s-ste", kind="latent weights")
@method
class SSTE:
    """Shrinks every group of ``m`` dense weights by its largest weight that is not among ``n``.

    The weights in use are ``beta s`` with ``s = sign(w) max(|w| - t, 0)``. ``t`` is the size of the
    weight ``n + 1`` of the group, the second smallest in 2:4. A weight enters and leaves at zero.
    ``beta = <w, s> / <s, s>`` of the weights before training brings ``s`` closest to ``w``. It is
    one number per layer, and stays. The gradient goes to all dense weights as it is.

    Args:
      n, m: the pattern. Weights that are as large as ``t`` are zero too.

    Example:
      >>> SSTE(2, 4).rule().sparsity
      0.5

    References:
      Hu et al. 2024, "S-STE: Continuous Pruning Function for Efficient 2:4 Sparse Pre-training"
      (arXiv 2409.09099).

    Checked against: huyz2023/2by4-pretrain at 1891482, sparse/utils.py (``_soft_threshold``), and
    thu-ml/2by4-pretrain-acc-examples at ef4eba9, v2/nanoGPT/sparse_ops.py (``init_scale``,
    ``SoftThreshold``), by a twin in plain NumPy and a table worked out by hand:
    tests/methods/test_random_cases.py::test_s_ste_equals_its_authors_code and
    tests/methods/test_nm_methods.py.
    Differs from the code: any n and m; no forward hook, so the first forward pass has the largest
    weights as they are; gradients are exact, not sampled to 2:4; no simulated 8-bit numbers.
    """

    n: int = 2
    m: int = 4

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule; ``steps`` is not needed."""
        structure = NM(self.n, self.m)

        def fix(weight: Array, leaf: Leaf) -> Array:
            layout = structure_of(leaf, structure).layout(leaf)
            best = top_k_mask(layout.pool(jnp.abs(weight)), self.n, group_axes=layout.group_axes)
            return scale(weight, shrunk(weight, layout.spread(best, weight), layout), leaf.stacked)

        return Latent(float(structure.sparsity), structure, fix=fix, weight=scaled)


def shrunk(weight: Array, active: Array, layout: Layout) -> Array:
    """``sign(w) max(|w| - t, 0)``; ``t``: the largest size of what is not active in the group."""
    size = jnp.abs(weight)
    threshold = layout.largest(jnp.where(active, 0.0, size))
    return jnp.sign(weight) * jnp.maximum(size - threshold, 0.0)


def scale(weight: Array, sparse: Array, stacked: int) -> Array:
    """The factor of every layer that brings sparse weights closest to dense ones; 1 where all of
    them are zero."""
    axes = tuple(range(stacked, weight.ndim))
    both, own = (exact_sum(x * sparse, axes) for x in (weight, sparse))
    factor = jnp.where(own > 0, both / jnp.where(own > 0, own, 1.0), 1.0)
    return lax.expand_dims(factor, axes)


def scaled(leaf: LatentLeaf) -> Array:
    """``beta s``."""
    return leaf.fixed * shrunk(leaf.latent, leaf.active, leaf.layout)
