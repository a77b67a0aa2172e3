"""Top-KAST (Jayakumar et al. 2020): always sparse, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from dst.core.typing import Array
from dst.rules.allocation import Allocator
from dst.rules.fields import NotNegative, Share, Sparsity
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.schedule import Duration, UpdateSchedule, resolve
from dst.rules.structure import Structure, Unstructured

_HINT = "Top-KAST explores throughout; explore_until=X ends it."


@named("top-kast", kind="latent weights")
@method
class TopKAST:
    """Uses the largest weights A, trains the larger set B around them, leaves the rest alone.

    Args:
      sparsity: of A, the weights in use, in [0, 1).
      backward_sparsity: of B, at most ``sparsity``.
      penalty: lambda of the exploration regulariser, whose gradient is ``lambda w`` on A and
        ``lambda w / density`` on B without A. The optimizer's own weight decay should be 0.
      allocation: sparsity per layer, of both sets.
      every: steps between new choices of A and B; the paper: 1.
      explore_until: count from which B is A; None: never.
      structure: what is switched.

    Example:
      >>> TopKAST(sparsity=0.8, backward_sparsity=0.5).rule().backward_sparsity
      0.5

    References:
      Jayakumar et al. 2020, "Top-KAST: Top-K Always Sparse Training" (arXiv 2106.03517).

    Checked against: the paper's description; one step by hand,
    tests/engine/test_latent.py::test_top_kast_equals_the_golden. The authors' code is not public.
    A port (A-Klass/torch_topkast at 16efe45, torch_topkast/topkast_loss.py) has norms without the
    square.
    Differs from the paper: moments of weights outside B are zero.
    """

    sparsity: Sparsity
    backward_sparsity: Share
    penalty: NotNegative = 1e-4
    allocation: str | Allocator = "uniform"
    every: Duration = 1
    explore_until: Duration | None = None
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        every, until = resolve("every", self.every, steps, _HINT), self.explore_until
        return Latent(
            self.sparsity,
            self.structure,
            self.allocation,
            gradient=penalised(self.penalty, 1 - self.sparsity),
            backward_sparsity=self.backward_sparsity,
            narrow_from=None if until is None else resolve("explore_until", until, steps, _HINT),
            when=None if every == 1 else UpdateSchedule(every, every),
        )


def penalised(penalty: float, density: float) -> Callable[[LatentLeaf], Array]:
    """The gradient on the larger set, with that of the exploration regulariser."""

    def gradient(leaf: LatentLeaf) -> Array:
        pull = jnp.where(leaf.active, leaf.latent, leaf.latent / jnp.float32(density))
        return jnp.where(leaf.backward, leaf.grad + jnp.float32(penalty) * pull, 0.0)

    return gradient
