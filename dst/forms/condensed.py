"""Fan-in condensed matrices: the weights of each output, and the inputs that they multiply."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.typing import Array, ArrayLike
from dst.forms.matrix import Matrix, on_device, weights_of

# Slots that one pass over the sums adds, where there are several rows of inputs.
_AT_ONCE = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class CondensedMatrix(Matrix):
    """A matrix as ``y[o] = sum_k values[k, o] x[indices[k, o]]``.

    It is a pytree: ``jax.jit`` takes it as an argument. The product is differentiable in ``x`` and
    in ``values``.

    Attributes:
      values: ``[fan_in, outputs]``. The fan-in is the largest number of weights of an output.
        Outputs with fewer have zeros in their last slots.
      indices: int32 of the same shape: the input of each value, rising; 0 where there is none.
      inputs: number of inputs.
    """

    values: Array
    indices: Array
    inputs: int = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        return self.inputs, self.values.shape[1]

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.indices.nbytes

    def dense(self) -> np.ndarray:
        result, values = np.zeros(self.shape, self.dtype), np.asarray(self.values)
        slots, outputs = np.nonzero(values)
        result[np.asarray(self.indices)[slots, outputs], outputs] = values[slots, outputs]
        return result

    def __call__(self, x: ArrayLike) -> Array:
        self._fitting(x)
        return product(jnp.asarray(x), self.values, self.indices)


def pack_condensed(weight: ArrayLike) -> CondensedMatrix:
    """The fan-in condensed form of a matrix.

    Each value takes 4 bytes more for its index. Where all outputs have the same number of weights,
    as after ``dst.SRigL`` or with ``structure=dst.ConstantFanIn()``, no slot is spare.

    Args:
      weight: ``[inputs, outputs]``, zeros included.

    Raises:
      ValueError: another shape, or no floating-point type that JAX holds.

    Example:
      >>> import jax.numpy as jnp
      >>> matrix = pack_condensed(jnp.array([[0.0, 2.0], [3.0, 0.0], [5.0, 0.0]]))
      >>> matrix.values.tolist(), matrix.indices.tolist()
      ([[3.0, 2.0], [5.0, 0.0]], [[1, 0], [2, 0]])
      >>> (jnp.array([1.0, 10.0, 100.0]) @ matrix).tolist()
      [530.0, 2.0]

    References: Lasby et al. 2024, "Dynamic sparse training with structured sparsity" (arXiv
    2305.02299), the condensed representation.
    Checked against: float64 products of NumPy, tests/forms/test_condensed.py.
    Differs from the paper: values are stored slot by slot, not output by output. The product then
    adds one slot of all outputs at a time. Outputs need not have the same fan-in.
    """
    host = weights_of(weight)
    inputs, outputs = host.shape
    active = host != 0
    counts = active.sum(axis=0)
    of_output, of_input = np.nonzero(active.T)
    # Weights are in the order of outputs, then of inputs: the slot is the place within the output.
    slots = np.arange(len(of_output)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.zeros((int(counts.max(initial=0)), outputs), host.dtype)
    indices = np.zeros(values.shape, np.int32)
    values[slots, of_output] = host[of_input, of_output]
    indices[slots, of_output] = of_input
    return CondensedMatrix(on_device(values), jnp.asarray(indices), inputs)


def condensed_of(values: np.ndarray, indices: np.ndarray, inputs: int) -> CondensedMatrix:
    """The matrix of arrays that come from outside.

    Raises:
      ValueError: arrays that :func:`pack_condensed` does not make.
    """
    if values.ndim != 2 or indices.shape != values.shape or indices.dtype.kind not in "iu":
        raise ValueError(
            "values and indices must have one shape [fan_in, outputs], got "
            f"{values.dtype}{values.shape} and {indices.dtype}{indices.shape}"
        )
    if indices.size and not 0 <= indices.min() <= indices.max() < inputs:
        raise ValueError(f"indices must be at least 0 and below {inputs}")
    if not ((indices[1:] > indices[:-1]) | (values[1:] == 0)).all():
        raise ValueError("indices of weights must rise")
    return CondensedMatrix(on_device(values), jnp.asarray(indices, jnp.int32), inputs)


@jax.jit
def product(x: Array, values: Array, indices: Array, offsets: Array | None = None) -> Array:
    """``y[..., o] = sum_k values[k, o] x[..., indices[k, o] + offsets[k]]``.

    Args:
      x: ``[..., inputs]``.
      values: ``[slots, outputs]``.
      indices: integers of the same shape.
      offsets: int32 ``[slots]``; None: zeros.
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    dtype = jnp.result_type(x, values)
    if not len(values):
        return jnp.zeros((*x.shape[:-1], values.shape[1]), dtype)
    one = len(rows) == 1
    sums = jnp.float32 if dtype.itemsize < 4 else dtype
    # A gather of whole rows reads them in order, and they are as long as the batch.
    source = (rows[0] if one else rows.T).astype(sums)

    # Recomputed for derivatives: what one slot gathers is as large as the whole product.
    @jax.checkpoint
    def add(total: Array, slot: tuple[Array, Array, Array | None]) -> tuple[Array, None]:
        weight, index, offset = slot
        index = index.astype(jnp.int32) + (0 if offset is None else offset)
        taken = source.at[index].get(mode="promise_in_bounds")
        weight = weight.astype(sums)
        return total + (weight if one else weight[:, None]) * taken, None

    # Zeros fill the last pass: slots that are left over would be added by slower code of their own.
    at_once = 1 if one else _AT_ONCE
    slots = jax.tree.map(
        lambda a: jnp.pad(a, [(0, -len(a) % at_once), *[(0, 0)] * (a.ndim - 1)]),
        (values, indices, offsets),
    )
    start = jnp.zeros((values.shape[1], *source.shape[1:]), sums)
    total, _ = lax.scan(add, start, slots, unroll=at_once)
    return (total if one else total.T).reshape(*x.shape[:-1], values.shape[1]).astype(dtype)
