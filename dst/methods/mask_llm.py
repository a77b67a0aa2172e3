"""MaskLLM (Fang et al. 2024): learns which N:M mask frozen weights get, by Gumbel softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules import candidates
from dst.rules.fields import AboveZero, NotNegative
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.schedule import Duration, resolve
from dst.rules.structure import NM

_HINT = "The paper learns masks in 2000 steps, to the end of which weights are soft."


@named("mask-llm", kind="latent weights")
@method
class MaskLLM:
    """Trains logits of the candidate masks of every group of ``m`` inputs; weights stay fixed.

    A group of 2:4 has six candidates. Until ``stop`` the weights in use are ``w M`` with soft masks
    ``M = softmax((kappa logits + Gumbel noise) / tau) candidates``. ``tau`` falls and ``kappa``
    rises along lines. Then the candidate of the largest logit is the mask. The gradient of
    ``-decay(t) ||w M||^2`` is added, which falls to zero: it prefers masks of large weights.

    Args:
      n, m: the pattern.
      prior: bool masks by leaf path, which logits prefer at the start; None, and leaves without
        one: the ``n`` largest weights of every group.
      strength: of the prior, in deviations of the logits (0.01) per connection in common.
      first_temperature, last_temperature: ``tau``.
      first_scale, last_scale: ``kappa``.
      decay: at the start.
      stop: when masks become hard; steps or percent.

    Raises:
      ValueError: a kernel with several axes of inputs or outputs, a prior of another shape.

    Example:
      >>> round(float(MaskLLM(stop=2000).rule().softness(1000)), 3)
      2.025

    References:
      Fang et al. 2024, "MaskLLM: Learnable Semi-Structured Sparsity for Large Language Models"
      (arXiv 2409.17481).

    Checked against: NVlabs/MaskLLM at 50e50de8, learnable_sparsity/differentiable_mask.py, by
    numbers worked out by hand and autodiff through the soft mask: tests/methods/test_mask_llm.py.
    Differs from the code: no forward hook; weights that a run evaluates before ``stop`` are soft;
    the first forward pass is dense. The optimizer's weight decay acts on logits.
    """

    n: int = 2
    m: int = 4
    prior: Mapping[str, Any] | None = None
    strength: NotNegative = 3.0
    first_temperature: AboveZero = 4.0
    last_temperature: AboveZero = 0.05
    first_scale: AboveZero = 1e2
    last_scale: AboveZero = 5e2
    decay: NotNegative = 1e-5
    stop: Duration = "100%"

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        temperature = self.first_temperature, self.last_temperature
        soft = candidates.Annealing(
            self.n, self.m, temperature, (self.first_scale, self.last_scale)
        )

        def start(weight: Array, leaf: Leaf, key: Array) -> Array:
            mask = (self.prior or {}).get(leaf.path)
            return candidates.start(weight, leaf, key, soft.every, mask, self.strength)

        def gradient(x: LatentLeaf) -> Array:
            mask, pull = jax.vjp(lambda g: soft.mask(g, x.softness, x.key), x.latent)
            decay = self.decay * (1 - soft.progress(x.softness))
            return pull((x.grad - 2 * decay * x.fixed * mask) * x.fixed)[0]

        return Latent(
            float(NM(self.n, self.m).sparsity),
            NM(self.n, self.m),
            start=start,
            fix=lambda weight, leaf: weight,
            score=lambda x: candidates.hard_mask(x.latent, soft.every),
            weight=lambda x: x.fixed * soft.mask(x.latent, x.softness, x.key),
            gradient=gradient,
            train_dense=False,
            softness=soft.softness(resolve("stop", self.stop, steps, _HINT)),
            draws=True,
        )
