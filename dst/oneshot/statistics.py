"""What calibration remembers of the inputs of a matrix: sums over its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array
from dst.oneshot.products import Reading

Needs = Literal["nothing", "norms", "gram"]
NEEDS = ("nothing", "norms", "gram")


class Statistics(NamedTuple):
    """Sums over the rows ``x`` of all batches that enter one matrix; float32.

    Attributes:
      rows: ``[groups]``: how many.
      sums: ``[groups, inputs]``: of ``x``.
      squares: ``[groups, inputs]``: of ``x^2``; their square roots are the norms of Wanda.
      gram: ``[groups, inputs, inputs]``: of ``x^T x``; None where only norms are needed.
    """

    rows: Array
    sums: Array
    squares: Array
    gram: Array | None = None

    @property
    def norms(self) -> Array:
        """The L2 norm of each input over all rows."""
        return jnp.sqrt(self.squares)

    @property
    def variance(self) -> Array:
        """The variance of each input over all rows (biased, as of a whole population)."""
        rows = jnp.maximum(self.rows, 1.0)[:, None]
        return jnp.maximum(self.squares / rows - jnp.square(self.sums / rows), 0.0)

    def of(self, groups: Any, inputs: Any) -> Statistics:
        """The part of some groups and inputs; None means all."""
        if groups is None and inputs is None:
            return self
        g = slice(None) if groups is None else groups
        i = slice(None) if inputs is None else inputs
        gram = None if self.gram is None else self.gram[g][:, i][:, :, i]
        return Statistics(self.rows[g], self.sums[g][:, i], self.squares[g][:, i], gram)

    def plus(self, other: Statistics) -> Statistics:
        """Of the rows of both."""
        return jax.tree.map(jnp.add, self, other)


def empty(groups: int, inputs: int, needs: Needs) -> Statistics:
    """Of no rows."""
    gram = jnp.zeros((groups, inputs, inputs), jnp.float32) if needs == "gram" else None
    sums, squares = (jnp.zeros((groups, inputs), jnp.float32) for _ in range(2))
    return Statistics(jnp.zeros(groups, jnp.float32), sums, squares, gram)


def added(
    total: Statistics, reading: Reading, data: Sequence[Array], where: Array | None
) -> Statistics:
    """The statistics with the rows of one more batch.

    Args:
      total: until now.
      reading: of the product.
      data: its operands.
      where: bool, which rows count, in the shape of the axes that they enumerate; None: all.
    """
    data = [x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in data]
    x = reading.rows(*data)
    counts = jnp.ones(x.shape[:2], bool)
    if reading.members is not None:
        counts = reading.members(*data)
    if where is not None:
        counts &= where.reshape(1, -1)
        x = jnp.where(counts[:, :, None], x, jnp.zeros_like(x))
    gram = total.gram
    if gram is not None:
        gram = gram + jnp.einsum(
            "gri,grj->gij",
            x,
            x,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
    return Statistics(
        rows=total.rows + jnp.sum(counts, axis=1, dtype=jnp.float32),
        sums=total.sums + jnp.sum(x, axis=1),
        squares=total.squares + jnp.sum(jnp.square(x), axis=1),
        gram=gram,
    )
