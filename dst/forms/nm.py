"""N:M matrices as values and indices: n of every m inputs, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.typing import Array, ArrayLike
from dst.forms.condensed import product
from dst.forms.matrix import Matrix, on_device


class PackedNM(NamedTuple):
    """A matrix of which every ``m`` consecutive inputs have at most ``n`` weights.

    Attributes:
      values: ``[inputs / m * n, outputs]``, in the type of the weights. Rows ``n g`` to ``n g + n``
        are those of group ``g``, in the order of the inputs.
      indices: uint8 of the same shape: the place of each value within its group, below ``m``.
    """

    values: Array
    indices: Array


def pack_nm(weight: Array, n: int, m: int) -> PackedNM:
    """The values of an N:M matrix and their places.

    Groups with fewer than ``n`` weights have zeros at their first free places. With 2:4 and 16-bit
    weights this is the memory of half the matrix and a byte per value; hardware stores two bits.

    Args:
      weight: ``[inputs, outputs]``, zeros included.
      n: weights per group, at least 1.
      m: inputs per group, above ``n`` and at most 256; divides the inputs.

    Raises:
      ValueError: another shape or pattern; a group with more than ``n`` weights.

    Example:
      >>> import jax.numpy as jnp
      >>> packed = pack_nm(jnp.array([[0.0], [3.0], [0.0], [5.0]]), 2, 4)
      >>> packed.values[:, 0].tolist(), packed.indices[:, 0].tolist()
      ([3.0, 5.0], [1, 3])

    References: the compressed form of Mishra et al. 2021, "Accelerating sparse deep neural
    networks" (arXiv 2104.08378), figure 2, without its packing of indices to two bits.
    Checked against: a loop in NumPy, tests/forms/test_nm.py.
    """
    checks.integer("n", n, at_least=1)
    checks.integer("m", m, at_least=n + 1, at_most=256)
    if weight.ndim != 2 or weight.shape[0] % m:
        raise ValueError(
            f"weight must be [inputs, outputs] with inputs that {m} divides, got {weight.shape}."
        )
    inputs, outputs = weight.shape
    groups = weight.reshape(inputs // m, m, outputs)
    most = int((groups != 0).sum(axis=1).max()) if weight.size else 0
    if most > n:
        raise ValueError(f"weight must be {n}:{m}, found {most} weights in a group of {m} inputs.")
    # Weights first, then zeros; both in their order.
    order = jnp.argsort(groups == 0, axis=1, stable=True)[:, :n]
    order = jnp.sort(order, axis=1)
    values = jnp.take_along_axis(groups, order, axis=1)
    shape = (inputs // m * n, outputs)
    return PackedNM(values.reshape(shape), order.astype(jnp.uint8).reshape(shape))


def unpack_nm(packed: PackedNM, n: int, m: int) -> Array:
    """The matrix ``[inputs, outputs]`` with its zeros, equal to the packed one in every bit.

    Args:
      packed: of :func:`pack_nm`.
      n, m: the same as there.

    Raises:
      ValueError: values and indices that are not those of such a matrix.
    """
    rows, outputs = packed.values.shape
    if rows % n or packed.indices.shape != packed.values.shape:
        raise ValueError(
            f"values and indices must have one shape [{n} * groups, outputs], got "
            f"{packed.values.shape} and {packed.indices.shape}."
        )
    shape = (rows // n, n, outputs)
    places = packed.indices.reshape(shape).astype(jnp.int32)
    groups = jnp.zeros((rows // n, m, outputs), packed.values.dtype)
    filled = jnp.put_along_axis(groups, places, packed.values.reshape(shape), 1, inplace=False)
    return filled.reshape(rows // n * m, outputs)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class NMMatrix(Matrix):
    """An N:M matrix that multiplies: a :class:`PackedNM` with its pattern.

    It is a pytree: ``jax.jit`` takes it as an argument. The product is that of
    :class:`dst.forms.CondensedMatrix`, with a byte per index. It uses no instructions for 2:4.

    Attributes:
      packed: of :func:`pack_nm`.
      n, m: the pattern.
    """

    packed: PackedNM
    n: int = field(metadata={"static": True})
    m: int = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        rows, outputs = self.packed.values.shape
        return rows // self.n * self.m, outputs

    @property
    def dtype(self) -> Any:
        return self.packed.values.dtype

    @property
    def nbytes(self) -> int:
        return self.packed.values.nbytes + self.packed.indices.nbytes

    def dense(self) -> Array:
        return unpack_nm(self.packed, self.n, self.m)

    def __call__(self, x: ArrayLike) -> Array:
        self._fitting(x)
        groups = np.arange(len(self.packed.values), dtype=np.int32) // self.n
        return product(jnp.asarray(x), *self.packed, jnp.asarray(groups * self.m))


def nm_of(values: np.ndarray, indices: np.ndarray, n: int, m: int) -> NMMatrix:
    """The matrix of arrays that come from outside.

    Raises:
      ValueError: arrays that :func:`pack_nm` does not make.
    """
    checks.integer("n", n, at_least=1)
    checks.integer("m", m, at_least=n + 1, at_most=256)
    if values.ndim != 2 or len(values) % n or indices.shape != values.shape:
        raise ValueError(
            f"values and indices must have one shape [{n} * groups, outputs], got "
            f"{values.shape} and {indices.shape}"
        )
    groups = indices.reshape(-1, n, indices.shape[1]).astype(int)
    rise = (np.diff(groups, axis=1) > 0).all()
    if indices.dtype != np.uint8 or not rise or groups.max(initial=0) >= m:
        raise ValueError(f"indices must be uint8, below {m} and rise within a group")
    return NMMatrix(PackedNM(on_device(values), jnp.asarray(indices)), n, m)
