"""Top-KAST (Jayakumar et al. 2020): always sparse, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from dst.core import checks
from dst.core.typing import Array
from dst.rules.allocation import Allocator
from dst.rules.durations import check_cadence
from dst.rules.latent import Latent, View
from dst.rules.rule import fires
from dst.rules.schedule import Cadence, Duration, resolve
from dst.rules.structure import Structure, Unstructured

_RULE = "Top-KAST explores throughout; explore_until=X ends it."


@dataclass(frozen=True)
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
      >>> TopKAST(sparsity=0.8, backward_sparsity=0.5).rule().wide
      0.5

    References:
      Jayakumar et al. 2020, "Top-KAST: Top-K Always Sparse Training" (arXiv 2106.03517).

    Checked against: the paper's description; one step by hand,
    tests/engine/test_latent.py::test_top_kast_equals_the_golden. The authors' code is not public.
    A port (A-Klass/torch_topkast at 16efe45, torch_topkast/topkast_loss.py) has norms without the
    square.
    Differs from the paper: moments of weights outside B are zero.
    """

    sparsity: float
    backward_sparsity: float
    penalty: float = 1e-4
    allocation: str | Allocator = "uniform"
    every: Duration = 1
    explore_until: Duration | None = None
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_cadence(self.every, None, None)
        checks.at_least_zero("penalty", self.penalty)
        if self.explore_until is not None:
            check_cadence(None, self.explore_until, None)
        self._rule(None, None)

    def _rule(self, when: Cadence | None, until: int | None) -> Latent:
        return Latent(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            gradient=penalised(self.penalty, 1 - self.sparsity),
            wide=self.backward_sparsity,
            narrow_from=until,
            cadence=when,
        )

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        every, until = resolve("every", self.every, steps, _RULE), self.explore_until
        return self._rule(
            None if every == 1 else Cadence(every, every),
            None if until is None else resolve("explore_until", until, steps, _RULE),
        )


def penalised(penalty: float, density: float) -> Callable[[View], Array]:
    """The gradient on the larger set, with that of the exploration regulariser."""

    def gradient(view: View) -> Array:
        pull = jnp.where(view.active, view.latent, view.latent / jnp.float32(density))
        return jnp.where(view.wide, view.grad + jnp.float32(penalty) * pull, 0.0)

    return gradient
