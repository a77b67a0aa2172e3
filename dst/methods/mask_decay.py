"""Mask decay (Bambhaniya et al. 2024): what an N:M mask leaves out fades away."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp

from dst.core.typing import Array
from dst.rules.fields import NotNegative
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.schedule import Duration, Schedule, window
from dst.rules.structure import NM

_HINT = "Decay begins after some dense training and ends before the last phase, at a hard mask."


@named("mask-decay", kind="latent weights")
@method
class MaskDecay:
    """Dense weights outside the N:M mask count with a factor that goes from 1 to 0 (MdGf).

    The weights in use are ``w (mask + D(t) (1 - mask))``; gradients go straight to ``w``. ``D``
    is 1 until ``start``, then ``1 - beta t`` (``linear``) or ``exp(-beta t)``. From ``stop`` on it
    is 0, and the parameters are exactly N:M.

    Args:
      n, m: the pattern.
      decay: ``linear`` or ``exp``.
      beta: per step after ``start``; None: linear to 0 at ``stop``, exponential to e^-5.
      start, stop: of the decay; steps or percent.

    Example:
      >>> round(float(MaskDecay(2, 4, beta=1e-3, start=0, stop=2000).rule().softness(250)), 6)
      0.75

    References:
      Bambhaniya et al. 2024, "Progressive Gradient Flow for Robust N:M Sparsity Training in
      Transformers" (arXiv 2402.04744).

    Checked against: abhibambhaniya/progressive_gradient_flow_nm_sparsity at 4ee44a4,
    timm/sparse_pruning/sparse_functions.py (LinearDecay, ExponentialDecay);
    tests/engine/test_latent.py::test_mask_decay_fades_as_the_golden_says and
    tests/methods/test_random_cases.py::test_mask_decay_equals_its_authors_code.
    Differs from the code: durations are steps, where it counts epochs; the mask is hard from
    ``stop`` on, there one epoch later; groups never straddle the window of a convolution; of equal
    weights the lower index stays; biases are kept, which its linear layers leave out.
    """

    n: int = 2
    m: int = 4
    decay: Literal["linear", "exp"] = "linear"
    beta: NotNegative | None = None
    start: Duration = "10%"
    stop: Duration = "75%"

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        structure = NM(self.n, self.m)
        start, stop = window(self.start, self.stop, steps, _HINT)
        beta = self.beta
        if beta is None:
            beta = (1 if self.decay == "linear" else 5) / max(stop - start, 1)
        return Latent(
            float(structure.sparsity),
            structure,
            weight=softened,
            softness=fading(self.decay, beta, start, stop),
        )


def fading(decay: str, beta: float, start: int, stop: int) -> Schedule:
    """``D(t)``: 1 until ``start``, 0 from ``stop`` on."""

    def softness(count: Any) -> Any:
        t = jnp.maximum(jnp.asarray(count, jnp.float32) - start, 0.0)
        value = jnp.maximum(1.0 - beta * t, 0.0) if decay == "linear" else jnp.exp(-beta * t)
        return jnp.where(jnp.asarray(count) >= stop, 0.0, value)

    return softness


def softened(leaf: LatentLeaf) -> Array:
    """``w (mask + D (1 - mask))``."""
    return jnp.where(leaf.active, leaf.latent, leaf.softness * leaf.latent)
