"""Rotary position embedding: queries and keys turn by angles that grow with their position."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dst.core.typing import Array, Float, Num


@dataclass(frozen=True)
class Rotary:
    """Channels ``i`` and ``i + size/2`` of position ``t`` are one point of the plane, turned by
    the angle ``t * base^(-2i/size) / factors[i]``.

    The paper pairs neighbouring channels; pairing halves, as LLaMA's published weights do, is the
    same up to an order of channels.

    Args:
      size: channels of a head, an even number.
      base: of the angles; the paper's is 10,000.
      factors: by which each pair turns more slowly, ``size / 2`` numbers; None: one.

    Raises:
      ValueError: an odd size, or another number of factors.

    Example:
      >>> Rotary(4)(jnp.ones((1, 2, 1, 4))).shape  # [batch, length, heads, size]
      (1, 2, 1, 4)

    References:
      Su et al. 2021 (arXiv 2104.09864).

    Checked against: complex products in NumPy: tests/models/test_decoder.py.
    """

    size: int
    base: float = 10_000.0
    factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size % 2 or self.size < 2:
            raise ValueError(
                "a head must have an even number of channels, which turn in pairs, got "
                f"{self.size}. It is head_size, or width / heads."
            )
        if self.factors is not None and len(self.factors) != self.size // 2:
            raise ValueError(
                f"rotary_factors must be {self.size // 2} numbers, one for each pair of channels, "
                f"got {len(self.factors)}."
            )

    def __call__(
        self,
        x: Float[Array, "batch length heads size"],
        positions: Num[Array, "_ _ _"] | None = None,
    ) -> Float[Array, "batch length heads size"]:
        """The same array with its channels turned.

        Args:
          x: the array.
          positions: of its vectors, of a shape that broadcasts against that of ``x`` without the
            channels; None: along ``length``, from zero.
        """
        half = self.size // 2
        if positions is None:
            positions = jnp.arange(x.shape[1])[None, :, None]
        speed = self.base ** (-jnp.arange(half, dtype=jnp.float32) / half)
        if self.factors is not None:
            speed = speed / np.asarray(self.factors, np.float32)
        angle = positions.astype(jnp.float32)[..., None] * speed[None, None, None]
        cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
        first, second = x[..., :half], x[..., half:]
        return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
