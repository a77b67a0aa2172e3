"""TEAL: small inputs of every matrix are zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dst.activations import quantiles
from dst.activations.calibration import Calibration
from dst.activations.sites import MATRICES, Replacement
from dst.activations.threshold import ThresholdedInput
from dst.core import checks
from dst.core.registry import named

# Matrices with the same input: it is looked at once.
_SAME = {"key": "query", "value": "query", "up": "gate"}


@named("teal")
@dataclass(frozen=True)
class TEAL:
    """Sets the inputs of every matrix of a block to zero where ``|x| <= t``, one ``t`` per matrix.

    ``t`` is the mean over batches of the k-th smallest ``|x|`` of a batch, with
    ``k = floor(sparsity n)`` of its ``n`` entries. The first pass sees the model without zeros.
    Zeros in one layer make the inputs of the next ones smaller. So each later pass sees the model
    with the thresholds of the pass before.

    Args:
      sparsity: of the inputs, in [0, 1), the same for every matrix.
      passes: over the batches; 1 is that of the paper, which ends above the target.

    Raises:
      ValueError: a sparsity out of range; from ``apply``: one that cannot be met.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> list(apply(model, TEAL(0.5), [jnp.arange(16).reshape(2, 8)]))
      ['query', 'key', 'value', 'output', 'gate', 'up', 'down']

    References: Liu et al. 2024, "Training-free activation sparsity in large language models"
    (arXiv 2408.14690), with uniform sparsities.
    Checked against: FasterDecoding/TEAL at 66507ba9, utils/utils.py (SparsifyFn) and teal/mlp.py,
    by NumPy's quantiles of what enters each matrix: tests/activations/test_methods.py::
    test_teal_has_the_quantiles_of_what_enters_each_matrix.
    Differs from its code: the quantile is exact, where the code reads it from a histogram; there is
    a second pass; the inputs of all tokens are sparse, where its evaluation spares the first half
    of a text. Sparsities that differ between matrices, by its greedy search, are not here.
    """

    sparsity: float = 0.5
    passes: int = 2
    matrices: ClassVar[tuple[str, ...]] = MATRICES

    def __post_init__(self) -> None:
        checks.fraction("sparsity of TEAL", self.sparsity, below_one=True)
        checks.integer("passes of TEAL", self.passes, at_least=1)

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """A threshold for the input of each matrix."""
        seen = {name: quantiles.inputs for name in MATRICES if name not in _SAME}
        chosen: dict[str, Replacement] = {}
        for _ in range(self.passes):
            found = quantiles.quantiles(data.behind(chosen), self.sparsity, seen)
            new = {name: found[_SAME.get(name, name)] for name in MATRICES}
            chosen = {name: Replacement(ThresholdedInput, new[name]) for name in MATRICES}
        return chosen
