"""First-order Taylor: what the loss would change by without the weights of a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dst.core import checks
from dst.oneshot.structured.units import Units

_PER = ("weight", "vector")


@dataclass(frozen=True)
class Taylor:
    """``sum |w g|`` over all weights of a unit, ``g`` the gradient of a loss.

    Args:
      per: ``weight``: absolute values of single weights are added; ``vector``: those of sums over
        one column or row of one matrix, in which opposite changes cancel.

    Raises:
      ValueError: another name.

    References: Ma et al. 2023, "LLM-Pruner: on the structural pruning of large language models"
    (arXiv 2305.11627).
    Checked against: horseee/LLM-Pruner at 07ece7a, LLMPruner/pruner/hf_llama_pruner.py
    (TaylorImportance, ``param_first`` and ``vectorize``, ``group_reduction="sum"``), by the
    formulas in NumPy: tests/oneshot/structured/test_scores.py.
    Differs from its code: the gradient is the mean over batches, and terms of second order are not
    here.
    """

    per: Literal["weight", "vector"] = "weight"
    needs: ClassVar[Literal["nothing", "inputs", "gradients"]] = "gradients"

    def __post_init__(self) -> None:
        checks.one_of("per", self.per, _PER)

    def scores(self, units: Units) -> np.ndarray:
        """float32 ``[units]``."""
        changes = [x.weight * x.gradient for x in units.parts]
        if self.per == "vector":
            return np.sum([np.abs(x.sum(2)).sum(1) for x in changes], axis=0)
        return np.sum([np.abs(x).sum((1, 2)) for x in changes], axis=0)
