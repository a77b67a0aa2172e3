"""OBS: optimal brain surgeon, exact for matrices of a few thousand weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.matrix import Matrix
from dst.oneshot.second_order import Scope, best, by_blocks, check_structure
from dst.oneshot.statistics import Needs
from dst.oneshot.surgery import greedy, joint
from dst.rules.structure import Unstructured

_LARGEST = 4096


@named("obs")
@dataclass(frozen=True)
class OBS:
    """Removes one weight after the other, the cheapest first; all others make up for each.

    ``H`` is the empirical Fisher matrix of all weights of a matrix plus ``dampening I``. Removing
    ``w_q`` costs ``w_q^2 / (2 [H^-1]_qq)`` and moves the others by
    ``-(w_q / [H^-1]_qq) H^-1 e_q``. The inverse then is that of the weights that remain.

    Time grows with the third power of the number of weights. For larger matrices see
    :class:`dst.CAP`, which does the same in blocks.

    Args:
      dampening: on the diagonal of ``H``, absolute, >= 0.

    Raises:
      ValueError: a matrix of more than 4096 weights; another structure than single weights; a
        curvature that has no factor.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> gradients = [jnp.array([2.0, 0.0]), jnp.array([1.0, 2.0])]
      >>> params, loss = {"w": jnp.array([[1.0], [0.5]])}, lambda p, g: g @ p["w"][:, 0]
      >>> pruned, _ = dst.prune(params, 0.5, method=dst.OBS(), loss=loss, batches=gradients)
      >>> [round(float(x), 3) for x in pruned["w"][:, 0]]
      [1.2, 0.0]

    References: Hassibi and Stork 1992, "Second order derivatives for network pruning: optimal brain
    surgeon" (Advances in Neural Information Processing Systems 5).
    Checked against: numbers worked out by hand, constrained quadratic minima and removal step by
    step in NumPy: tests/oneshot/test_second_order.py.
    Differs from the paper: gradients are those of the loss, where the paper's are those of the
    outputs of the network; one matrix at a time, where the paper prunes the whole network.
    """

    needs: ClassVar[Needs] = "nothing"
    needs_loss: ClassVar[bool] = True
    needs_curvature: ClassVar[bool] = True

    dampening: float = 1e-6

    def __post_init__(self) -> None:
        checks.at_least_zero("dampening of OBS", self.dampening)

    @property
    def scope(self) -> Scope:
        """One matrix at a time."""
        return "layer"

    def scores(self, matrix: Matrix) -> Array:
        """What the matrix has lost when a weight goes, float32 of the shape of the weight."""
        check_structure(matrix, "OBS", (Unstructured,))
        size = matrix.weight.size
        if size > _LARGEST:
            raise ValueError(
                f"{matrix.name}: OBS prunes matrices of at most {_LARGEST} weights, found {size}. "
                "Use dst.CAP(), which does the same in blocks."
            )
        return by_blocks(greedy, matrix, size, self.dampening, _memory(size))

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        mask, size = best(self, matrix), matrix.weight.size
        return by_blocks(joint, matrix, size, self.dampening, _memory(size), mask), mask


def _memory(size: int) -> float:
    """GiB for one block."""
    return size * (size + 16) * 4 / 2**30
