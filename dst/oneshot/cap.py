"""CAP: optimal brain surgery whose scores know what else was removed from the block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.matrix import Matrix
from dst.oneshot.second_order import SCOPES, Scope, best, block_size, by_blocks, check_structure
from dst.oneshot.statistics import Needs
from dst.oneshot.surgery import greedy, joint
from dst.rules.structure import NM, Unstructured


@named("cap")
@dataclass(frozen=True)
class CAP:
    """Removes the weights whose blocks have lost least when they go.

    ``F = dampening I + mean(g g^T)`` over the batches, each of which gives one gradient ``g`` of
    the loss, in blocks along its diagonal, of consecutive inputs of an output. Within each block
    the weight of smallest ``w_q^2 / (2 [F^-1]_qq)`` goes first. The others make up for it, and the
    inverse is then that of what remains. The score of a weight is the sum of these costs up to it.
    So of two weights that could stand in for each other, the second is dear.

    Args:
      block: weights of a block, >= 1. Time per weight grows with its square. Under N:M a multiple
        of M.
      dampening: on the diagonal of ``F``, absolute, >= 0.
      scope: ``global``: the weights of all matrices compete; ``layer``: those of each matrix.
      memory: GiB of Fisher blocks at once, > 0. Less memory means more passes over the batches.

    Raises:
      ValueError: another structure than single weights or N:M; a matrix that has no factor.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> gradients = [jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])]
      >>> params, loss = {"w": jnp.array([[1.0], [0.5]])}, lambda p, g: g @ p["w"][:, 0]
      >>> method = dst.CAP(dampening=1.0)
      >>> pruned, _ = dst.prune(params, 0.5, method=method, loss=loss, batches=gradients)
      >>> pruned["w"].tolist()
      [[1.125], [0.0]]

    References: Kuznedelev et al. 2023, "CAP: correlation-aware pruning for highly-accurate sparse
    vision models" (arXiv 2210.09223).
    Checked against: removal step by step with fresh inverses in NumPy:
    tests/oneshot/test_second_order.py; IST-DASLab/CAP at faf298b,
    src/sparseml/pytorch/sparsification/pruning/pruning_handle.py.
    Differs from its code: exact counts, where that removes a weight more; the last block may be
    filled up, where that takes a size that divides the matrix; every matrix keeps a weight.
    """

    needs: ClassVar[Needs] = "nothing"
    needs_loss: ClassVar[bool] = True
    needs_curvature: ClassVar[bool] = True

    block: int = 50
    dampening: float = 1e-7
    scope: Scope = "global"
    memory: float = 2.0

    def __post_init__(self) -> None:
        checks.integer("block of CAP", self.block, at_least=1)
        checks.at_least_zero("dampening of CAP", self.dampening)
        checks.one_of("scope of CAP", self.scope, SCOPES)
        checks.above_zero("memory of CAP", self.memory)

    def _size(self, matrix: Matrix) -> int:
        check_structure(matrix, "CAP", (Unstructured, NM))
        multiple = matrix.structure.m if isinstance(matrix.structure, NM) else 1
        return block_size(self.block, multiple)

    def scores(self, matrix: Matrix) -> Array:
        """What its block has lost when a weight goes, float32 of the shape of the weight."""
        size, structure = self._size(matrix), matrix.structure
        kept = {"n": structure.n, "m": structure.m} if isinstance(structure, NM) else {}
        return by_blocks(partial(greedy, **kept), matrix, size, self.dampening, self.memory)

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        size, mask = self._size(matrix), best(self, matrix)
        return by_blocks(joint, matrix, size, self.dampening, self.memory, mask), mask
