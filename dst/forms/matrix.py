"""What every form of a deployed matrix has in common, and the dense form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dst.core.typing import Array, ArrayLike


class Matrix(ABC):
    """A matrix ``[inputs, outputs]`` that multiplies, in one of the forms of :func:`dst.deploy`.

    ``matrix(x)`` and ``x @ matrix`` are the product of ``x [..., inputs]``, so a forward function
    that writes ``x @ kernel`` takes a deployed tree unchanged. Products are summed in 32 bits at
    least. Zeros are skipped: where ``x`` is infinite or NaN the dense product may differ.
    """

    # NumPy leaves `array @ matrix` to the matrix.
    __array_ufunc__: ClassVar[None] = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """The type of the weights."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all arrays that are stored."""

    @abstractmethod
    def dense(self) -> ArrayLike:
        """The matrix with its zeros, on the host or the device: equal in every bit but for the
        signs of zeros."""

    @abstractmethod
    def __call__(self, x: ArrayLike) -> ArrayLike:
        """The product ``[..., outputs]`` of ``x [..., inputs]``."""

    def __rmatmul__(self, x: ArrayLike) -> ArrayLike:
        return self(x)

    def __repr__(self) -> str:
        inputs, outputs = self.shape
        return f"{type(self).__name__}({inputs} x {outputs}, {self.dtype}, {self.nbytes} bytes)"

    def _fitting(self, x: ArrayLike) -> None:
        """Raises unless the last axis of ``x`` is that of the inputs."""
        shape = np.shape(x)
        if shape[-1:] != self.shape[:1]:
            raise ValueError(f"x must be [..., {self.shape[0]}], got shape {shape}.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class DenseMatrix(Matrix):
    """A matrix with its zeros: the form in which few zeros multiply fastest.

    Attributes:
      values: ``[inputs, outputs]``.
    """

    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        inputs, outputs = self.values.shape
        return inputs, outputs

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def dense(self) -> Array:
        return self.values

    def __call__(self, x: ArrayLike) -> Array:
        self._fitting(x)
        return jnp.asarray(x) @ self.values


def weights_of(weight: ArrayLike) -> np.ndarray:
    """The weights on the host.

    Raises:
      ValueError: no matrix, or not of floating-point numbers.
    """
    shape, dtype = np.shape(weight), getattr(weight, "dtype", None)
    if len(shape) != 2:
        raise ValueError(f"weight must be a matrix [inputs, outputs], got shape {shape}.")
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"weight must be a floating-point array, got {dtype}.")
    return np.asarray(weight)


def on_device(array: np.ndarray) -> Array:
    """The same numbers as an array of JAX.

    Raises:
      ValueError: JAX would round them.
    """
    result = jnp.asarray(array)
    if result.dtype != array.dtype:
        raise ValueError(
            f"JAX would turn {array.dtype} into {result.dtype}: set jax_enable_x64, cast the "
            'weights, or use form="csr", which stays on the host.'
        )
    return result
