"""Spartan (Tai et al. 2022): weights count with a share of a soft top-k that hardens."""

from __future__ import annotations

import math
from fractions import Fraction

import jax.numpy as jnp

from dst.core.typing import Array
from dst.rules.allocation import Allocator
from dst.rules.fields import AboveZero, Sparsity
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.schedule import Duration, UpdateSchedule, resolve
from dst.rules.soft_top_k import shares, spread, through
from dst.rules.structure import Structure, Unstructured

_HINT = "The authors lower the density over 20 % of training and freeze masks at 80 %."
_STAGES = 100


@named("spartan", kind="latent weights")
@method
class Spartan:
    """Uses the k largest weights, each times its share ``m`` of a soft top-k.

    ``m = sigmoid(beta (|w| - u))``, where u makes the sum of the shares k: the regularised
    transport of weights to kept and dropped ones. The gradient is that of ``w m``, for weights in
    use and for others. So at small ``beta`` all weights learn, and at large ``beta`` those near the
    k-th. ``beta`` rises along a line until ``freeze``. From there on the connections stay, and
    others get no gradient.

    Args:
      sparsity: of the selected weights, in [0, 1); exact.
      allocation: sparsity per layer; the authors' code lets all layers compete.
      first_beta, last_beta: at the start and at ``freeze``; for a structure, times the root of the
        weights in a unit.
      warm: the density falls along a line from 1 over this time, in at most 100 stages; steps or
        percent. 0: sparse from the start.
      freeze: steps or percent.
      structure: what is switched; its size is the mean over its weights.

    Raises:
      ValueError: connections that freeze before the sparsity is reached.

    Example:
      >>> Spartan(sparsity=0.9, warm=20, freeze=80).rule().when.last
      79

    References:
      Tai et al. 2022, "Spartan: Differentiable Sparsity via Regularized Transportation"
      (arXiv 2205.14107).

    Checked against: facebookresearch/spartan at 505dc89, spartan/sparsifier.py (``SinkhornTopK``,
    schedules) and spartan/modules/linear.py; numbers by hand, a twin with Sinkhorn's iterations and
    autodiff through them, tests/methods/test_spartan.py.
    Differs from the code: no forward hook; u is found by halving an interval, there by iterations
    to 1 %; layers do not compete; after ``freeze`` shares follow the weights, there they are
    frozen; ties go to the lower index. With ``warm=0`` the first forward pass has no shares.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "uniform"
    first_beta: AboveZero = 1.0
    last_beta: AboveZero = 20.0
    warm: Duration = "20%"
    freeze: Duration = "80%"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        warm = resolve("warm", self.warm, steps, _HINT)
        freeze = resolve("freeze", self.freeze, steps, _HINT)
        if freeze < max(warm, 1):
            raise ValueError(
                f"freeze={freeze} must be at least 1 and not before the end of warm={warm}: the "
                "sparsity would not be reached. Raise it."
            )
        n = min(_STAGES, warm)

        def beta(leaf: LatentLeaf) -> Array:
            done = jnp.minimum(leaf.count.astype(jnp.float32) / freeze, 1.0)
            rising = self.first_beta + (self.last_beta - self.first_beta) * done
            return rising * math.sqrt(leaf.layout.unit_size)

        def slope(leaf: LatentLeaf) -> Array:
            learns = leaf.active | (leaf.count < freeze)
            return jnp.where(learns, through(leaf, beta(leaf), jnp.where(learns, leaf.grad, 0)), 0)

        return Latent(
            self.sparsity,
            self.structure,
            self.allocation,
            weight=lambda leaf: leaf.latent * spread(shares(leaf, beta(leaf)), leaf),
            gradient=slope,
            when=UpdateSchedule(0, 1, freeze - 1),
            stages=tuple(warm * (k + 1) // n - 1 for k in range(n)),
            ramp=(lambda k: Fraction(k, n)) if n else None,
        )
