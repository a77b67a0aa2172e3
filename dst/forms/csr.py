"""Matrices as compressed sparse rows (CSR), one row per output, multiplied on the host."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from dst.core import checks
from dst.core.typing import ArrayLike
from dst.forms.matrix import Matrix, weights_of


@dataclass(frozen=True, eq=False, repr=False)
class CSRMatrix(Matrix):
    """A matrix whose output ``o`` has the weights ``values[pointers[o]:pointers[o + 1]]``.

    The product is that of ``scipy.sparse``: one core of the host, outside of ``jax.jit``. Weights
    of 16 bits are multiplied as 32-bit ones, of which the first product makes a copy.

    Attributes:
      values: ``[weights]``, output by output.
      indices: int32 ``[weights]``: the input of each value, rising within an output.
      pointers: int32 ``[outputs + 1]``: where the weights of each output begin.
      inputs: number of inputs.

    Raises:
      ValueError: arrays that are those of no such matrix.
    """

    values: np.ndarray
    indices: np.ndarray
    pointers: np.ndarray
    inputs: int

    def __post_init__(self) -> None:
        values, indices, pointers = self.values, self.indices, self.pointers
        shapes = values.ndim == pointers.ndim == 1 and indices.shape == values.shape
        if not shapes or not indices.dtype == pointers.dtype == np.int32 or not pointers.size:
            raise ValueError(
                "values, indices and pointers must be [weights], [weights] and [outputs + 1], "
                f"the last two int32, got {values.dtype}{values.shape}, "
                f"{indices.dtype}{indices.shape} and {pointers.dtype}{pointers.shape}"
            )
        steps = np.diff(pointers)
        if pointers[0] != 0 or pointers[-1] != len(values) or (steps < 0).any():
            raise ValueError(f"pointers must rise from 0 to {len(values)}")
        if indices.size and not 0 <= indices.min() <= indices.max() < self.inputs:
            raise ValueError(f"indices must be at least 0 and below {self.inputs}")
        rising = np.diff(indices) > 0
        starts = pointers[1:-1]
        rising[starts[(0 < starts) & (starts < len(values))] - 1] = True
        if not rising.all():
            raise ValueError("indices must rise within an output")

    @property
    def shape(self) -> tuple[int, int]:
        return self.inputs, len(self.pointers) - 1

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.indices.nbytes + self.pointers.nbytes

    def dense(self) -> np.ndarray:
        result = np.zeros(self.shape, self.dtype)
        outputs = np.repeat(np.arange(self.shape[1]), np.diff(self.pointers))
        result[self.indices, outputs] = self.values
        return result

    def __call__(self, x: ArrayLike) -> np.ndarray:
        self._fitting(x)
        if isinstance(x, jax.core.Tracer):
            raise ValueError(
                "a CSR matrix multiplies on the host, outside of jax.jit and jax.grad: call it "
                'with an array, or deploy with form="condensed".'
            )
        x = np.asarray(x)
        rows = _at_least_32_bits(x.reshape(math.prod(x.shape[:-1]), self.inputs))
        # A vector takes a faster path of scipy than a matrix of one column.
        y = self._scipy @ rows[0] if len(rows) == 1 else (self._scipy @ rows.T).T
        dtype = np.result_type(x.dtype, self.dtype)
        return y.reshape(*x.shape[:-1], self.shape[1]).astype(dtype, copy=False)

    @cached_property
    def _scipy(self) -> Any:
        from scipy import sparse

        arrays = _at_least_32_bits(self.values), self.indices, self.pointers
        return sparse.csr_array(arrays, shape=self.shape[::-1])


def pack_csr(weight: ArrayLike) -> CSRMatrix:
    """The CSR form of a matrix: arrays of NumPy.

    Args:
      weight: ``[inputs, outputs]``, zeros included.

    Raises:
      ValueError: another shape, no floating-point type, or 2^31 weights and more.

    Example:
      >>> import numpy as np
      >>> matrix = pack_csr(np.array([[0.0, 2.0], [3.0, 0.0], [5.0, 0.0]]))
      >>> matrix.values.tolist(), matrix.indices.tolist(), matrix.pointers.tolist()
      ([3.0, 5.0, 2.0], [1, 2, 0], [0, 2, 3])
      >>> (np.array([1.0, 10.0, 100.0]) @ matrix).tolist()
      [530.0, 2.0]

    References: the compressed sparse row format of ``scipy.sparse.csr_array``, of the transpose.
    Checked against: scipy's own conversion, tests/forms/test_csr.py.
    """
    host = weights_of(weight)
    outputs, indices = np.nonzero(host.T)
    if len(indices) > checks.LARGEST:
        raise ValueError(f"weight must have at most {checks.LARGEST} weights, got {len(indices)}.")
    pointers = np.zeros(host.shape[1] + 1, np.int32)
    np.cumsum(np.bincount(outputs, minlength=host.shape[1]), out=pointers[1:])
    return CSRMatrix(host[indices, outputs], indices.astype(np.int32), pointers, host.shape[0])


def _at_least_32_bits(array: np.ndarray) -> np.ndarray:
    """What scipy multiplies: it has no 16-bit floating-point numbers."""
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array
