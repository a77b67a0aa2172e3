"""Magnitude: units with the smallest weights are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dst.core import checks
from dst.oneshot.structured.units import Units


@dataclass(frozen=True)
class Magnitude:
    """``sum |w|^power`` over all weights of a unit: its columns, its rows, all of its heads' parts.

    Args:
      power: 2 for the squared L2 norm, 1 for the L1 norm; > 0.

    Raises:
      ValueError: a power that is not above zero.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> from dst.oneshot import structured
      >>> params = {"a": jnp.array([[1.0, 5.0]]), "b": jnp.array([[1.0], [1.0]])}
      >>> forward = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
      >>> groups = dst.channel_groups(forward, params, jnp.ones((4, 1)))
      >>> dst.remove(params, 0.5, groups=groups, score=structured.Magnitude())[0]["a"].tolist()
      [[5.0]]

    References: Ma et al. 2023, "LLM-Pruner" (arXiv 2305.11627), which compares with it.
    Checked against: horseee/LLM-Pruner at 23928e9, LLMPruner/pruner/hf_llama_pruner.py
    (MagnitudeImportance), with ``group_reduction="sum"``; the sum in NumPy,
    tests/oneshot/structured/test_scores.py.
    """

    power: float = 2.0
    needs: ClassVar[Literal["nothing", "inputs", "gradients"]] = "nothing"

    def __post_init__(self) -> None:
        checks.above_zero("power", self.power)

    def scores(self, units: Units) -> np.ndarray:
        """float32 ``[units]``."""
        sums = [(np.abs(x.weight) ** self.power).sum((1, 2)) for x in units.parts]
        return np.sum(sums, axis=0)
