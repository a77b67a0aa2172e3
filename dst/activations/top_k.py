"""Top-k activations, and the percentages of non-zeros by which the paper judges models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from dst.activations.apply import measure
from dst.activations.calibration import Calibration
from dst.activations.quantiles import zeros_of
from dst.activations.sites import ACTIVATION, Replacement, Sparse
from dst.core import checks
from dst.core.registry import named
from dst.core.selection import top_k_mask
from dst.core.typing import Array, ArrayLike


def top_k(x: Array, k: int) -> Array:
    """The ``k`` entries of largest magnitude in every row, the others zero.

    Ties go to the lowest index. The gradient passes through the kept entries.

    Args:
      x: float ``[..., channels]``.
      k: at most the number of channels.

    Example:
      >>> top_k(jnp.array([[0.5, 0.0, 2.0, 0.25]]), 2).tolist()
      [[0.5, 0.0, 2.0, 0.0]]
    """
    mask = top_k_mask(jnp.abs(x), k, group_axes=tuple(range(x.ndim - 1)))
    return jnp.where(mask, x, 0)


class TopKActivation(Sparse):
    """``top_k(former(x), k)`` with ``k = channels - floor(sparsity channels)``.

    Args:
      former: the activation.
      sparsity: in [0, 1).
    """

    def __init__(self, former: Any, sparsity: float):
        super().__init__(former)
        self.sparsity = sparsity

    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        return top_k(self.former(x), channels - zeros_of(channels, self.sparsity))


@named("top-k")
@dataclass(frozen=True)
class TopK:
    """Keeps the ``k`` largest activations ``|activation(gate(x))|`` of each token, in each layer.

    ``k = hidden - floor(sparsity hidden)``. It looks at no data, so ``apply`` needs no batches.
    Train with it, too: gradients pass through the kept activations. After a ReLU, rows with fewer
    than ``k`` positive entries keep fewer.

    Args:
      sparsity: of the activations of a token, in [0, 1).

    Raises:
      ValueError: a sparsity out of range.

    Example:
      >>> from flax import nnx
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> apply(model, TopK(0.75), [jnp.arange(16).reshape(2, 8)])["down"].tolist()
      [0.75, 0.75]

    References: Li et al. 2023, "The lazy neuron phenomenon: on emergence of activation sparsity in
    transformers" (arXiv 2210.06313), Top-k Transformer.
    Checked against: a table worked out by hand, tests/activations/test_methods.py::
    test_top_k_keeps_what_the_table_says.
    Differs from the paper: its activation is a ReLU; of others, magnitudes count.
    """

    sparsity: float = 0.9
    matrices: ClassVar[tuple[str, ...]] = ("down",)

    def __post_init__(self) -> None:
        checks.fraction("sparsity of TopK", self.sparsity, below_one=True)

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """The same module in every layer."""
        return {ACTIVATION: Replacement(partial(TopKActivation, sparsity=self.sparsity))}


def percentages(model: Any, batches: Iterable[ArrayLike]) -> np.ndarray:
    """The percentage of non-zeros among what enters ``down``, per layer: float64 ``[layers]``.

    ``100 (1 - zeros / entries)``, over all tokens of the batches.

    Args:
      model: a :class:`dst.models.Decoder`, most often with ``activation="relu"``.
      batches: of tokens, int ``[batch, length]``.

    Raises:
      ValueError: as :func:`measure`.

    Example:
      >>> from flax import nnx
      >>> from dst.models import Decoder
      >>> sizes = {"width": 8, "layers": 2, "heads": 2, "hidden": 32, "activation": "relu"}
      >>> model = Decoder((8,), 16, **sizes, rngs=nnx.Rngs(0))
      >>> bool((abs(percentages(model, [jnp.arange(16).reshape(2, 8)]) - 50) < 15).all())
      True

    References: Li et al. 2023 (arXiv 2210.06313).
    Checked against: NumPy's count, tests/activations/test_apply.py::
    test_measured_zeros_are_those_that_numpy_counts.
    """
    return 100 * (1 - measure(model, batches)["down"])
