"""WoodFisher: optimal brain surgery with the inverse of the empirical Fisher matrix, in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.matrix import Matrix
from dst.oneshot.second_order import SCOPES, Scope, best, block_size, by_blocks, check_structure
from dst.oneshot.statistics import Needs
from dst.oneshot.surgery import single, summed
from dst.rules.structure import NM, Unstructured


@named("woodfisher")
@dataclass(frozen=True)
class WoodFisher:
    """Removes the weights of smallest ``w_q^2 / (2 [F^-1]_qq)``; the others make up for it.

    ``F = dampening I + mean(g g^T)`` over the batches, each of which gives one gradient ``g`` of
    the loss. It is kept in blocks along its diagonal, of consecutive inputs of an output. The
    others move by the sum of ``-(w_q / [F^-1]_qq) F^-1 e_q`` over all weights that are removed.

    Args:
      block: weights of a block, >= 1. Memory per weight grows with it. Under N:M a multiple of M.
      dampening: on the diagonal of ``F``, absolute, >= 0.
      scope: ``global``: the weights of all matrices compete; ``layer``: those of each matrix.
      memory: GiB of Fisher blocks at once, > 0. Less memory means more passes over the batches.

    Raises:
      ValueError: another structure than single weights or N:M; a matrix that has no factor.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> gradients = [jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])]
      >>> params, loss = {"w": jnp.array([[1.0], [0.5]])}, lambda p, g: g @ p["w"][:, 0]
      >>> method = dst.WoodFisher(dampening=1.0)
      >>> pruned, _ = dst.prune(params, 0.5, method=method, loss=loss, batches=gradients)
      >>> pruned["w"].tolist()
      [[1.125], [0.0]]

    References: Singh and Alistarh 2020, "WoodFisher: efficient second-order approximation for
    neural network compression" (arXiv 2004.14340).
    Checked against: numbers worked out by hand, the recursion of Woodbury and inverses in NumPy:
    tests/oneshot/test_second_order.py; IST-DASLab/WoodFisher at 2073163,
    pruners/woodfisherblock.py.
    Differs from its code: the inverse is that of a Cholesky factor in float64 (on CPUs), not of a
    recursion in float32; every matrix keeps a weight.
    """

    needs: ClassVar[Needs] = "nothing"
    needs_loss: ClassVar[bool] = True
    needs_curvature: ClassVar[bool] = True

    block: int = 2000
    dampening: float = 1e-5
    scope: Scope = "global"
    memory: float = 2.0

    def __post_init__(self) -> None:
        checks.integer("block of WoodFisher", self.block, at_least=1)
        checks.at_least_zero("dampening of WoodFisher", self.dampening)
        checks.one_of("scope of WoodFisher", self.scope, SCOPES)
        checks.above_zero("memory of WoodFisher", self.memory)

    def _size(self, matrix: Matrix) -> int:
        check_structure(matrix, "WoodFisher", (Unstructured, NM))
        multiple = matrix.structure.m if isinstance(matrix.structure, NM) else 1
        return block_size(self.block, multiple)

    def scores(self, matrix: Matrix) -> Array:
        """``w^2 / (2 diag(F^-1))``, float32 of the shape of the weight."""
        return by_blocks(single, matrix, self._size(matrix), self.dampening, self.memory)

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        size, mask = self._size(matrix), best(self, matrix)
        return by_blocks(summed, matrix, size, self.dampening, self.memory, mask), mask
