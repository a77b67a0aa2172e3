"""Wanda: magnitudes times the norms of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.matrix import Matrix
from dst.oneshot.statistics import Needs


@named("wanda")
@dataclass(frozen=True)
class Wanda:
    """Sets the weights of smallest ``|w_ij| ||x_i||_2`` to zero, output by output.

    ``x_i`` is input ``i`` over all calibration rows. Every output loses
    ``floor(sparsity * inputs)`` weights; under N:M, every group of M consecutive inputs keeps N.
    Other weights stay as they are.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> forward, x = lambda p, x: x @ p["w"], jnp.array([[1.0, 2.0], [0.0, 2.0]])
      >>> params = {"w": jnp.array([[2.0, 5.0], [1.0, 1.0]])}
      >>> pruned, masks = dst.prune(params, 0.5, method=dst.Wanda(), forward=forward, batches=[x])
      >>> pruned["w"].tolist()
      [[0.0, 5.0], [1.0, 0.0]]

    References: Sun et al. 2024, "A simple and effective pruning approach for large language models"
    (arXiv 2306.11695).
    Checked against: locuslab/wanda, lib/prune.py (prune_wanda), by a table worked out by hand:
    tests/oneshot/test_methods.py::test_wanda_weighs_magnitudes_by_norms.
    Differs from its code: of equal scores the lowest input stays.
    """

    needs: ClassVar[Needs] = "norms"

    def scores(self, matrix: Matrix) -> Array:
        """``|w| ||x||``, float32 of the shape of the weight."""
        return jnp.abs(matrix.weight) * matrix.inputs.norms[:, :, None]

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        mask = matrix.best(self.scores(matrix), scope="output")
        return jnp.where(mask, matrix.weight, 0.0), mask
