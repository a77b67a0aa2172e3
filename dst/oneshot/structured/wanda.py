"""Wanda for units: magnitudes times the norms of the inputs, summed over what reads a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dst.oneshot.structured.units import Units


@dataclass(frozen=True)
class Wanda:
    """``sum_i mean_o |w_io| ||x_i||``, over the inputs ``i`` of a unit and the outputs ``o``.

    ``w`` is the matrix that reads the units, and ``x_i`` one of its inputs over all calibration
    rows. The weights that compute a unit do not count.

    References: Sun et al. 2024, Wanda (arXiv 2306.11695), for single weights; for units, as An et
    al. 2024, FLAP (2312.11983), compare with it.
    Checked against: CASIA-IVA-Lab/FLAP at 9bbad71, lib/prune.py (prune_wanda_sp), by the formula in
    NumPy: tests/oneshot/structured/test_scores.py.
    """

    needs: ClassVar[Literal["nothing", "inputs", "gradients"]] = "inputs"

    def scores(self, units: Units) -> np.ndarray:
        """float32 ``[units]``."""
        sums = [(np.abs(x.weight).mean(2) * x.norm).sum(1) for x in units.reads]
        return np.sum(sums, axis=0)
