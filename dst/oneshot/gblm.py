"""GBLM: magnitudes times norms of the inputs and of the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.matrix import Matrix
from dst.oneshot.statistics import Needs


@named("gblm")
@dataclass(frozen=True)
class GBLM:
    """Sets the weights of smallest ``|w| (||x|| + scale ||g||)`` to zero, output by output.

    ``||x||`` is the norm of the input over all rows, divided by the root of the number of batches.
    ``||g||`` is the norm of the gradient of the loss over all batches, of the dense network. Give
    batches of one sequence each, as the paper does: every batch has one gradient.

    Args:
      scale: of the gradients, >= 0; 0 is Wanda. It depends on the length of the sequences.
      norm: of a weight's gradients: ``l2``, the root of the sum of squares, or ``l1``, the sum.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> forward, x = lambda p, x: x @ p["w"], jnp.array([[1.0, 1.0]])
      >>> loss = lambda p, x: (p["w"][0] * 9 + p["w"][1]).sum()
      >>> params, method = {"w": jnp.array([[1.0], [2.0]])}, dst.GBLM()
      >>> given = {"forward": forward, "loss": loss, "batches": [x]}
      >>> dst.prune(params, 0.5, method=method, **given)[0]["w"].tolist()
      [[1.0], [0.0]]

    References: Das et al. 2023, "Beyond size: how gradients shape pruning decisions in large
    language models" (arXiv 2311.04902).
    Checked against: VILA-Lab/GBLM-Pruner at 338e2b5, gradient_computation.py and lib/prune.py
    (prune_gblm), by numbers worked out by hand: tests/oneshot/test_loss.py.
    Differs from its code: norms of gradients are float32, not float16; of equal scores the lowest
    input stays.
    """

    needs: ClassVar[Needs] = "norms"
    needs_loss: ClassVar[bool] = True

    scale: float = 100.0
    norm: Literal["l1", "l2"] = "l2"

    def __post_init__(self) -> None:
        checks.at_least_zero("scale of GBLM", self.scale)
        checks.one_of("norm of GBLM", self.norm, ("l1", "l2"))

    def scores(self, matrix: Matrix) -> Array:
        """``|w| (||x|| + scale ||g||)``, float32 of the shape of the weight."""
        gradients = matrix.of_loss
        size = gradients.norms if self.norm == "l2" else gradients.absolute
        inputs = matrix.inputs.norms / gradients.batches**0.5
        return jnp.abs(matrix.weight) * (inputs[:, :, None] + self.scale * size)

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        mask = matrix.best(self.scores(matrix), scope="output")
        return jnp.where(mask, matrix.weight, 0.0), mask
