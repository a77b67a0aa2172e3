"""Sparse activations in a model: how they come into it, and how many zeros there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from dst.activations.calibration import Calibration, Call
from dst.activations.sites import MATRICES, Replacement, check, copy, place, remove
from dst.core.typing import Array, ArrayLike


@runtime_checkable
class Method(Protocol):
    """What :func:`apply` takes: a frozen dataclass of hyper-parameters."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """Whose inputs become sparse, of ``query``, ``key``, ``value``, ``output``, ``gate``,
        ``up`` and ``down``."""

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """What stands in the place of an activation or a layer of every block, by its name."""


def apply(model: Any, method: Method, batches: Iterable[ArrayLike] = ()) -> dict[str, np.ndarray]:
    """Makes activations of a decoder sparse; the model is changed, its parameters are not.

    What a former call has put there is removed before. Thresholds are variables of the class
    :class:`Threshold`. Zeros are computed with like other numbers: this says what a method costs in
    quality and what it could save, and saves no time by itself.

    Args:
      model: a :class:`dst.models.Decoder`, with a list of blocks or with stacked ones.
      method: :class:`TEAL`, :class:`CATS`, :class:`CHESS`, :class:`TopK`, :class:`CETT`, ...
      batches: of tokens, int ``[batch, length]``: those by which thresholds are chosen. Quantiles
        are exact within a batch and means over batches, so use large ones of equal size.

    Returns:
      the share of zeros on these batches among the inputs of the matrices that the method makes
      sparse, by their name: float64 ``[layers]``. Empty without batches.

    Raises:
      ValueError: another model, a method that needs batches and has none, a target that cannot be
        met, activations that are not finite. The model then is as it was.

    Example:
      >>> from flax import nnx
      >>> from dst.activations import CATS
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> found = apply(model, CATS(0.5), [jnp.arange(16).reshape(2, 8)])
      >>> {name: zeros.round(1).tolist() for name, zeros in found.items()}
      {'down': [0.5, 0.5]}
    """
    check(model)
    tried = copy(model)
    remove(tried)
    data = Calibration(tried, batches)
    chosen = method.replacements(data)
    found = _zeros(data.behind(chosen), method.matrices) if data.batches else {}
    remove(model)
    place(model, chosen)
    return found


def measure(model: Any, batches: Iterable[ArrayLike]) -> dict[str, np.ndarray]:
    """The share of zeros in what enters each matrix of a decoder: the sparsity of its activations.

    Also of models whose activation is a ReLU. The multiply-adds of a matrix that could be skipped
    are the same share of all.

    Args:
      model: a :class:`dst.models.Decoder`.
      batches: of tokens, int ``[batch, length]``.

    Returns:
      float64 ``[layers]`` by the name of the matrix: ``query``, ``key``, ``value``, ``output``,
      ``gate``, ``up``, ``down``.

    Raises:
      ValueError: another model, or no batches.

    Example:
      >>> from flax import nnx
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> measure(model, [jnp.arange(16).reshape(2, 8)])["down"].tolist()
      [0.0]

    Checked against: NumPy's count, tests/activations/test_apply.py::
    test_measured_zeros_are_those_that_numpy_counts.
    """
    return _zeros(Calibration(model, batches), MATRICES)


def _zeros(data: Calibration, matrices: tuple[str, ...]) -> dict[str, np.ndarray]:
    return data.means(dict.fromkeys(matrices, _share), within=True)


def _share(call: Call) -> Array:
    return jnp.mean(call.inputs == 0, dtype=jnp.float32)
