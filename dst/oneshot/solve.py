"""The factor of a Gram matrix by which second-order methods correct what pruning loses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array

T = TypeVar("T")

_RETRIES = 3  # with a dampening that is ten times the one before
_RESIDUAL = 1e-3  # of the factorisation, relative to the Gram matrix


@contextmanager
def precise() -> Iterator[Any]:
    """The dtype to solve in: float64 on CPUs, float32 elsewhere.

    Accelerators emulate float64 slowly, or lack it. There the dampening keeps float32 safe, and the
    residual is checked. On CPUs 64-bit numbers are switched on for the block only.
    """
    if jax.default_backend() != "cpu":
        yield jnp.float32
        return
    with jax.enable_x64(True):
        yield jnp.float64


def factor(gram: Array, dampening: float, name: str) -> tuple[Array, Array]:
    """``U`` with ``inverse(H) = U^T U``, upper triangular, and the inputs that are always zero.

    ``H`` is the Gram matrix with 1 on the diagonal for inputs that are always zero, plus
    ``dampening * mean(diagonal(H))`` on the diagonal. Call it within :func:`precise`.

    Args:
      gram: ``[groups, inputs, inputs]``.
      dampening: relative, > 0 unless the matrix is positive definite.
      name: of the leaf, for messages.

    Returns:
      ``U`` ``[groups, inputs, inputs]`` and bool ``[groups, inputs]``.

    Raises:
      ValueError: no factor, also with a dampening a thousand times as large.
    """

    def attempt(value: float) -> tuple[tuple[Array, Array], Array]:
        upper, dead, residual = _factor(gram, value)
        return (upper, dead), residual

    return dampened(attempt, dampening, name)


def dampened(
    attempt: Callable[[float], tuple[T, Array]],
    dampening: float,
    name: str,
    what: str = "Gram matrix",
    hint: str = "Take more calibration rows than inputs, or check them for huge values.",
    least: Callable[[], float] = lambda: 0.0,
) -> T:
    """The factors of a matrix with the first dampening, of four, that gives good ones.

    Args:
      attempt: from a dampening, the factors and their residual, relative to the matrix.
      dampening: the first; each further one is ten times as large.
      name: of the leaf, for messages.
      what, hint: the matrix and the way out, for messages.
      least: what the second dampening is at least.

    Raises:
      ValueError: the residual is never below 1e-3.
    """
    value = float(dampening)
    for retry in range(1 + _RETRIES):
        if retry:
            larger = max(10 * value, least() if retry == 1 else 0.0) or 1e-4
            warnings.warn(
                f"{name}: its {what} could not be factorised with dampening {value:g}; trying "
                f"{larger:g}.",
                stacklevel=2,
            )
            value = larger
        factors, residual = attempt(value)
        if bool(residual < _RESIDUAL):
            return factors
    raise ValueError(
        f"{name}: expected a {what} that can be factorised, found none up to dampening {value:g}. "
        f"{hint}"
    )


@jax.jit
def _factor(gram: Array, dampening: Array) -> tuple[Array, Array, Array]:
    high = lax.Precision.HIGHEST
    size = gram.shape[-1]
    identity = jnp.eye(size, dtype=gram.dtype)[None]
    diagonal = jnp.diagonal(gram, axis1=1, axis2=2)
    dead = diagonal == 0
    h = gram + identity * dead[:, None, :]
    mean = jnp.mean(jnp.where(dead, 1, diagonal), axis=1)
    h = h + identity * (dampening * mean)[:, None, None]
    # With the order of the inputs reversed, a lower factor is the upper one that is needed.
    lower = jnp.linalg.cholesky(h[:, ::-1, ::-1])
    root = lower[:, ::-1, ::-1]
    error = jnp.matmul(root, jnp.swapaxes(root, 1, 2), precision=high) - h
    residual = jnp.max(jnp.abs(error)) / jnp.max(jnp.abs(h))
    inverse = _triangular(root, jnp.broadcast_to(identity, root.shape))
    finite = jnp.isfinite(inverse).all() & jnp.isfinite(residual)
    return inverse, dead, jnp.where(finite, residual, jnp.inf)


_triangular: Callable[[Array, Array], Array] = jax.vmap(
    lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=False)
)
