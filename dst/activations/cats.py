"""CATS: small activations of the gate are zero, so that rows of two matrices are not needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dst.activations import quantiles
from dst.activations.calibration import Calibration
from dst.activations.sites import ACTIVATION, Replacement
from dst.activations.threshold import Thresholded
from dst.core import checks
from dst.core.registry import named


@named("cats")
@dataclass(frozen=True)
class CATS:
    """Sets ``a = activation(gate(x))`` to zero where ``|a| <= t``, one ``t`` per layer.

    ``t`` is the mean over batches of the k-th smallest ``|a|`` of a batch, with
    ``k = floor(sparsity n)`` of its ``n`` entries. Products with ``up`` and ``down`` are needed for
    the other channels only.

    Args:
      sparsity: of the activations, in [0, 1).

    Raises:
      ValueError: a sparsity out of range; from ``apply``: one that cannot be met.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> found = apply(model, CATS(0.5), [jnp.arange(16).reshape(2, 8)])
      >>> found["down"].round(1).tolist()
      [0.5, 0.5]

    References: Lee et al. 2024, "CATS: Contextually-aware thresholding for sparsity in large
    language models" (arXiv 2404.08763).
    Checked against: ScalingIntelligence/CATS at e6de6b03, cats_package/cats.py (which entries
    become zero), by a table worked out by hand: tests/activations/test_methods.py::
    test_cats_and_chess_keep_what_the_table_says.
    Differs from its code: the quantile is exact, where the code reads it from a histogram; an
    entry that equals the threshold becomes zero.
    """

    sparsity: float = 0.5
    matrices: ClassVar[tuple[str, ...]] = ("down",)

    def __post_init__(self) -> None:
        checks.fraction("sparsity of CATS", self.sparsity, below_one=True)

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """A threshold for the activation of each layer."""
        found = quantiles.quantiles(data, self.sparsity, {ACTIVATION: quantiles.outputs})
        return {ACTIVATION: Replacement(Thresholded, found[ACTIVATION])}
