"""Optimal brain surgery in blocks: what removing weights costs, and how the others make up for it.

The loss near the trained weights is ``dw^T H dw / 2``. All functions see many blocks at once, and
``H`` of each. They return float32 per weight, and the residual of the factorisation.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array, ArrayLike

_HIGH = lax.Precision.HIGHEST


class Blocks(NamedTuple):
    """Blocks of weights, and the curvature of the loss at each.

    Attributes:
      weight: ``[blocks, size]``.
      curvature: ``[blocks, size, size]``, without dampening.
      alive: bool ``[blocks, size]``: weights that are not fixed at zero.
    """

    weight: Array
    curvature: Array
    alive: Array

    def hessian(self, dampening: ArrayLike) -> Array:
        """``H = curvature + dampening I``; weights that are fixed at zero are apart."""
        both = self.alive[:, :, None] & self.alive[:, None, :]
        diagonal = jnp.where(self.alive, dampening, 1).astype(self.curvature.dtype)
        return jnp.where(both, self.curvature, 0) + _diagonal(diagonal)


@jax.jit
def single(blocks: Blocks, dampening: ArrayLike) -> tuple[Array, Array]:
    """What removing each weight alone costs: ``w_q^2 / (2 [H^-1]_qq)``."""
    inverse, residual = _inverse(blocks.hessian(dampening))
    cost = jnp.square(blocks.weight) / (2 * jnp.diagonal(inverse, axis1=1, axis2=2))
    return cost.astype(jnp.float32), residual


@partial(jax.jit, static_argnames=("unit",))
def grouped(blocks: Blocks, dampening: ArrayLike, unit: int) -> tuple[Array, Array]:
    """What removing ``unit`` consecutive weights costs: ``w_Q^T ([H^-1]_QQ)^-1 w_Q / 2``.

    Each of the weights gets an equal share of it.
    """
    inverse, residual = _inverse(blocks.hessian(dampening))
    count, size = blocks.weight.shape
    at = jnp.arange(size // unit)
    parts = inverse.reshape(count, size // unit, unit, size // unit, unit)
    own = jnp.moveaxis(parts[:, at, :, at, :], 0, 1)  # [blocks, units, unit, unit]
    weight = blocks.weight.reshape(count, size // unit, unit, 1)
    cost = jnp.sum(weight * jnp.linalg.solve(own, weight), axis=(2, 3)) / 2
    return jnp.repeat(cost / unit, unit, axis=1).astype(jnp.float32), residual


@partial(jax.jit, static_argnames=("n", "m"))
def greedy(
    blocks: Blocks, dampening: ArrayLike, n: int | None = None, m: int | None = None
) -> tuple[Array, Array]:
    """What each block has lost when a weight goes, where always the cheapest goes next.

    After each removal the others make up for it, and the inverse is that of what remains. With
    ``n`` and ``m``, ``n`` of every ``m`` consecutive weights stay; their cost is infinite.
    """
    inverse, residual = _inverse(blocks.hessian(dampening))
    size = blocks.weight.shape[1]
    group = m or size
    allowed = size if n is None else group - n  # removals per group

    def one(weight: Array, inverse: Array, alive: Array) -> Array:
        gone = jnp.sum(~alive.reshape(-1, group), axis=1, dtype=jnp.int32)
        cost = jnp.where(alive, jnp.inf, 0).astype(weight.dtype)

        def remove(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
            weight, inverse, left, gone, cost, total = state
            diagonal = jnp.diagonal(inverse)
            can = left & jnp.repeat(gone < allowed, group)
            price = jnp.where(can, jnp.square(weight) / jnp.where(can, diagonal, 1), jnp.inf)
            q = jnp.argmin(price)
            found = price[q] < jnp.inf
            total = total + jnp.where(found, price[q] / 2, 0)
            row, pivot = inverse[q], jnp.where(found, diagonal[q], 1)
            step = jnp.where(found, row, 0)
            weight = weight - step * (weight[q] / pivot)
            inverse = inverse - step[:, None] * (step / pivot)[None, :]
            here = (jnp.arange(size) == q) & found
            weight = jnp.where(here, 0, weight)
            gone = gone.at[q // group].add(found.astype(jnp.int32))
            return weight, inverse, left & ~here, gone, jnp.where(here, total, cost), total

        state = weight, inverse, alive, gone, cost, jnp.zeros([], weight.dtype)
        return lax.fori_loop(0, size, remove, state)[4]

    cost = jax.vmap(one)(blocks.weight, inverse, blocks.alive)
    return cost.astype(jnp.float32), residual


@jax.jit
def joint(blocks: Blocks, dampening: ArrayLike, keep: Array) -> tuple[Array, Array]:
    """The weights that minimise ``dw^T H dw`` where all weights that are not kept are zero.

    ``w_K + [H_KK]^-1 H_KQ w_Q`` for kept weights ``K`` and others ``Q``.
    """
    h = blocks.hessian(dampening)
    keep = keep & blocks.alive
    both = keep[:, :, None] & keep[:, None, :]
    target = jnp.einsum("nbc,nc->nb", h, blocks.weight, precision=_HIGH)
    target = jnp.where(keep, target, 0)
    inner = jnp.where(both, h, 0) + _diagonal(jnp.where(keep, 0, 1).astype(h.dtype))
    lower, residual = _factor(inner)
    solved = jax.vmap(lambda a, b: jax.scipy.linalg.cho_solve((a, True), b))(lower, target)
    return jnp.where(keep, solved, 0).astype(jnp.float32), residual


@jax.jit
def summed(blocks: Blocks, dampening: ArrayLike, keep: Array) -> tuple[Array, Array]:
    """The sum of the updates for each removed weight alone: ``w - H^-1 (w_Q / diag(H^-1)_Q)``."""
    inverse, residual = _inverse(blocks.hessian(dampening))
    diagonal = jnp.diagonal(inverse, axis1=1, axis2=2)
    lost = jnp.where(keep, 0, blocks.weight / diagonal)
    moved = blocks.weight - jnp.einsum("nbc,nc->nb", inverse, lost, precision=_HIGH)
    return jnp.where(keep & blocks.alive, moved, 0).astype(jnp.float32), residual


def _diagonal(values: Array) -> Array:
    return values[:, :, None] * jnp.eye(values.shape[1], dtype=values.dtype)[None]


def _factor(matrix: Array) -> tuple[Array, Array]:
    """The Cholesky factor, and its residual; infinite where there is none."""
    lower = jnp.linalg.cholesky(matrix)
    product = jnp.matmul(lower, jnp.swapaxes(lower, 1, 2), precision=_HIGH)
    error = jnp.max(jnp.abs(product - matrix), axis=(1, 2))
    residual = jnp.max(error / jnp.max(jnp.abs(matrix), axis=(1, 2)))
    return lower, jnp.where(jnp.isfinite(residual), residual, jnp.inf)


def _inverse(matrix: Array) -> tuple[Array, Array]:
    lower, residual = _factor(matrix)
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[1], dtype=matrix.dtype), matrix.shape)
    inverse = jax.vmap(lambda a, b: jax.scipy.linalg.cho_solve((a, True), b))(lower, identity)
    finite = jnp.isfinite(inverse).all()
    return (inverse + jnp.swapaxes(inverse, 1, 2)) / 2, jnp.where(finite, residual, jnp.inf)
