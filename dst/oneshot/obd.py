"""OBD: optimal brain damage, the diagonal of the curvature alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.curvature import from_blocks
from dst.oneshot.matrix import Matrix
from dst.oneshot.second_order import SCOPES, Scope, best
from dst.oneshot.statistics import Needs

_MEMORY = 1.0  # GiB


@named("obd")
@dataclass(frozen=True)
class OBD:
    """Removes the weights of smallest saliency ``h w^2 / 2``; the others stay as they are.

    ``h`` is the diagonal of the empirical Fisher matrix: the mean of ``g^2`` over the batches, each
    of which gives one gradient ``g`` of the loss. Or it is a diagonal that you give.

    Args:
      scope: ``global``: the weights of all matrices compete; ``layer``: those of each matrix.
      diagonal: of the Hessian of the loss, by leaf path, of the shape of the leaf. None: of the
        Fisher matrix. With it neither a loss nor batches are needed.

    Raises:
      ValueError: an unknown scope; a diagonal that lacks a leaf, or of another shape.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> params = {"w": jnp.array([[1.0], [0.5]])}
      >>> method = dst.OBD(diagonal={"w": jnp.array([[2.0], [9.0]])})
      >>> dst.prune(params, 0.5, method=method)[0]["w"].tolist()
      [[0.0], [0.5]]

    References: LeCun et al. 1989, "Optimal brain damage" (Advances in Neural Information
    Processing Systems 2).
    Checked against: numbers worked out by hand and NumPy: tests/oneshot/test_second_order.py;
    IST-DASLab/WoodFisher at 2073163, pruners/diagfisher.py.
    Differs from the paper: the diagonal is that of the Fisher matrix, unless it is given; biases
    stay. Differs from its code: no constant is added to scores.
    """

    needs: ClassVar[Needs] = "nothing"
    needs_curvature: ClassVar[bool] = True

    scope: Scope = "global"
    diagonal: Mapping[str, Array] | None = None

    def __post_init__(self) -> None:
        checks.one_of("scope of OBD", self.scope, SCOPES)
        if self.diagonal is not None and not isinstance(self.diagonal, Mapping):
            raise ValueError(
                f"diagonal of OBD must be arrays by leaf path, got {type(self.diagonal).__name__}."
            )

    @property
    def needs_loss(self) -> bool:
        """Whether gradients are taken."""
        return self.diagonal is None

    def scores(self, matrix: Matrix) -> Array:
        """``h w^2 / 2``, float32 of the shape of the weight."""
        parts = [h[:, 0, 0] for _, h in matrix.curvature_of_loss.blocks(1, _MEMORY)]
        h = from_blocks(jnp.concatenate(parts), matrix.shape)
        return h * jnp.square(matrix.weight) / 2

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        mask = best(self, matrix)
        return jnp.where(mask, matrix.weight, 0.0), mask
