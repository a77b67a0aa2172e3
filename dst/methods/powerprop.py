"""Powerpropagation (Schwarz et al. 2021): large weights learn faster, so that small ones can go."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.allocation import Allocator
from dst.rules.fields import AboveZero, Sparsity
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.schedule import Duration, resolve
from dst.rules.structure import Structure, Unstructured

_HINT = "The authors' notebook prunes after training."


@named("powerprop", kind="latent weights")
@method
class Powerprop:
    """Trains ``theta`` with ``w = theta |theta| ** (alpha - 1)``, then prunes the smallest ones.

    ``dL/dtheta = alpha |theta| ** (alpha - 1) dL/dw``: a weight learns in proportion to its size,
    so more weights stay near zero. From the count ``prune`` on, each layer uses its largest
    weights, chosen again at every update. Others get no gradient; momentum and weight decay still
    move them.

    Args:
      sparsity: of the selected weights after pruning, in [0, 1).
      alpha: at least 1, where w is theta.
      allocation: sparsity per layer.
      prune: steps or percent.
      structure: what is switched, by the sum of its ``|w|``.

    Example:
      >>> Powerprop(sparsity=0.9, prune=100).rule().stages
      (100,)

    References:
      Schwarz et al. 2021, "Powerpropagation: A sparsity inducing weight reparameterisation"
      (arXiv 2110.00296).

    Checked against: google-deepmind/deepmind-research at 243aff2,
    powerpropagation/powerpropagation.ipynb (initial values, weights, pruning); a loop with a
    forward hook, tests/methods/test_powerprop.py.
    Differs from the notebook: training goes on after pruning, with masks that may still
    change; the allocation does not halve the sparsity of the output layer; biases are no powers,
    as there.
    """

    sparsity: Sparsity
    alpha: AboveZero = 2.0
    allocation: str | Allocator = "uniform"
    prune: Duration = "90%"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        alpha = self.alpha
        if alpha < 1:
            raise ValueError(f"alpha must be at least 1, got {alpha}. At 1 weights are as usual.")

        def start(weight: Array, leaf: Leaf, key: Array) -> Array:
            return jnp.sign(weight) * jnp.abs(weight) ** jnp.float32(1 / alpha)

        def slope(leaf: LatentLeaf) -> Array:
            factor = jnp.abs(leaf.latent) ** jnp.float32(alpha - 1)
            return jnp.where(leaf.active, jnp.float32(alpha) * factor * leaf.grad, 0.0)

        return Latent(
            self.sparsity,
            self.structure,
            self.allocation,
            start=start,
            score=lambda leaf: jnp.abs(leaf.latent) ** jnp.float32(alpha),
            weight=lambda leaf: leaf.latent * jnp.abs(leaf.latent) ** jnp.float32(alpha - 1),
            gradient=slope,
            stages=(resolve("prune", self.prune, steps, _HINT),),
            ramp=lambda k: k,
        )
