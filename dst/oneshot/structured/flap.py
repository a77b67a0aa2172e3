"""FLAP: units whose inputs fluctuate least, with a bias in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dst.core import checks
from dst.oneshot.structured.units import Read, Units


@dataclass(frozen=True)
class FLAP:
    """``sum_i (var(x_i) sum_o w_io^2)^power``, over the inputs ``i`` of a unit.

    ``w`` is the matrix that reads the units. An input that hardly varies can be replaced by its
    mean, and the mean by a bias: ``bias_o += sum_i mean(x_i) w_io`` over the removed inputs.

    Args:
      compensate: whether that bias is added. The matrices that read units then need one.
      power: of the score of each input, before those of a head are added. The order of units of one
        input, such as neurons, does not depend on it.

    Raises:
      ValueError: a power that is not above zero.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> from dst.oneshot import structured
      >>> params = {"out": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}, "a": jnp.eye(2)}
      >>> def forward(p, x):
      ...     return (x @ p["a"]) @ p["out"]["kernel"] + p["out"]["bias"][None]
      >>> x = jnp.array([[3.0, 0.0], [3.0, 1.0]])
      >>> groups = dst.channel_groups(forward, params, x)
      >>> smaller, _ = dst.remove(
      ...     params, 0.5, groups=groups, score=structured.FLAP(), forward=forward, batches=[x]
      ... )
      >>> smaller["out"]["bias"].tolist()
      [3.0]

    References: An et al. 2024, "Fluctuation-based adaptive structured pruning for large language
    models" (arXiv 2312.11983).
    Checked against: CASIA-IVA-Lab/FLAP at 9bbad71, lib/prune.py (metric WIFV, structure UL-UM, and
    compress), by the formulas in NumPy: tests/oneshot/structured/test_scores.py.
    Differs from its code: the variance is that of all calibration rows, where the code adds up
    deviations from running means, beginning with the second sequence. Every group loses the same
    fraction; the adaptive fractions (structure AL-AM) are not here.
    """

    compensate: bool = True
    power: float = 2.0
    needs: ClassVar[Literal["nothing", "inputs", "gradients"]] = "inputs"

    def __post_init__(self) -> None:
        checks.above_zero("power", self.power)

    def scores(self, units: Units) -> np.ndarray:
        """float32 ``[units]``."""
        each = [x.variance * np.square(x.weight).sum(2) for x in units.reads]
        return np.sum([(x**self.power).sum(1) for x in each], axis=0)

    def shift(self, read: Read, removed: np.ndarray) -> np.ndarray:
        """What the removed units added to the outputs of a matrix on average, ``[outputs]``."""
        return np.einsum("ui,uio->o", read.mean[removed], read.weight[removed])
