"""oBERT: optimal brain surgery in small blocks, for single weights and for groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax.numpy as jnp

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.matrix import Matrix
from dst.oneshot.second_order import SCOPES, Scope, best, block_size, by_blocks, check_structure
from dst.oneshot.statistics import Needs
from dst.oneshot.surgery import grouped, joint, single, summed
from dst.rules.structure import NM, Block, Unstructured

UPDATES = ("joint", "sum", "none")


@named("obert")
@dataclass(frozen=True)
class OBERT:
    """Removes what costs least by the inverse Fisher matrix; others of its block make up for it.

    ``F = dampening I + mean(g g^T)`` over the batches, each of which gives one gradient ``g`` of
    the loss, in blocks along its diagonal, of consecutive inputs of an output. A weight costs
    ``w_q^2 / (2 [F^-1]_qq)``. A unit ``Q`` of ``structure=dst.Block(h, 1)`` costs
    ``w_Q^T ([F^-1]_QQ)^-1 w_Q / 2``. With ``Q`` all weights of a block that are removed, the others
    move by ``-F^-1 E_Q ([F^-1]_QQ)^-1 w_Q``, which is the best update for this mask.

    Args:
      block: weights of a block, >= 1; made a multiple of the M of N:M, or of ``h``.
      dampening: on the diagonal of ``F``, absolute, >= 0.
      scope: ``global``: the weights of all matrices compete; ``layer``: those of each matrix.
      update: ``joint`` as above; ``sum``: of the updates for each removed weight alone; ``none``.
      memory: GiB of Fisher blocks at once, > 0. Less memory means more passes over the batches.

    Raises:
      ValueError: another structure than single weights, N:M or ``Block(h, 1)``; a matrix that has
        no factor; ``update="sum"`` of blocks.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> gradients = [jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])]
      >>> params, loss = {"w": jnp.array([[1.0], [0.5]])}, lambda p, g: g @ p["w"][:, 0]
      >>> method = dst.OBERT(dampening=1.0)
      >>> pruned, _ = dst.prune(params, 0.5, method=method, loss=loss, batches=gradients)
      >>> pruned["w"].tolist()
      [[1.125], [0.0]]

    References: Kurtic et al. 2022, "The optimal BERT surgeon: scalable and accurate second-order
    pruning for large language models" (arXiv 2203.07259).
    Checked against: numbers worked out by hand, constrained quadratic minima in NumPy:
    tests/oneshot/test_second_order.py; neuralmagic/sparseml at 1218140,
    src/sparseml/pytorch/sparsification/pruning/modifier_pruning_obs.py.
    Differs from its code: that sums updates of single weights, as ``update="sum"`` does, and adds
    up those of blocks; the inverse is that of a Cholesky factor, not of a recursion; N:M; every
    matrix keeps a weight.
    """

    needs: ClassVar[Needs] = "nothing"
    needs_loss: ClassVar[bool] = True
    needs_curvature: ClassVar[bool] = True

    block: int = 50
    dampening: float = 1e-7
    scope: Scope = "global"
    update: Literal["joint", "sum", "none"] = "joint"
    memory: float = 2.0

    def __post_init__(self) -> None:
        checks.integer("block of OBERT", self.block, at_least=1)
        checks.at_least_zero("dampening of OBERT", self.dampening)
        checks.one_of("scope of OBERT", self.scope, SCOPES)
        checks.one_of("update of OBERT", self.update, UPDATES)
        checks.above_zero("memory of OBERT", self.memory)

    def _size(self, matrix: Matrix) -> int:
        check_structure(matrix, "OBERT", (Unstructured, NM, Block))
        structure, multiple = matrix.structure, 1
        if isinstance(structure, Block):
            if structure.w != 1 or self.update == "sum":
                raise ValueError(
                    f"{matrix.name}: OBERT prunes blocks of one output, with update='joint' or "
                    f"'none', got {structure} and {self.update!r}. Use dst.Block({structure.h}, 1)."
                )
            multiple = structure.h
        if isinstance(structure, NM):
            multiple = structure.m
        return block_size(self.block, multiple)

    def scores(self, matrix: Matrix) -> Array:
        """What removing each weight, or its unit, costs; float32 of the shape of the weight."""
        size, structure = self._size(matrix), matrix.structure
        cost = partial(grouped, unit=structure.h) if isinstance(structure, Block) else single
        return by_blocks(cost, matrix, size, self.dampening, self.memory)

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        size, mask = self._size(matrix), best(self, matrix)
        if self.update == "none":
            return jnp.where(mask, matrix.weight, 0.0), mask
        move = joint if self.update == "joint" else summed
        return by_blocks(move, matrix, size, self.dampening, self.memory, mask), mask
