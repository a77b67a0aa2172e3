"""Masks as images: for reports, and for loggers that show pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

ACTIVE = (42, 120, 214)  # a mid tone, visible on light and on dark paper
LARGEST = 512  # pixels of a picture along an axis; larger masks are averaged over blocks

Colour = tuple[int, int, int]


def matrix(mask: np.ndarray) -> np.ndarray:
    """A mask ``[..., inputs, outputs]`` as one matrix of inputs and outputs."""
    return mask.reshape(-1, mask.shape[-1])


def per_pixel(mask: np.ndarray) -> np.ndarray | None:
    """Active connections of every pixel, where the inputs form a square picture.

    The picture is grey or has three colours.

    Args:
      mask: bool ``[inputs, outputs]``.

    Returns:
      int ``[side, side]``; None where the inputs form none.
    """
    for colours in (1, 3):
        side = math.isqrt(len(mask) // colours)
        if mask.ndim == 2 and side * side * colours == len(mask) and side >= 3:
            return mask.sum(axis=1).reshape(side, side, colours).sum(axis=-1)
    return None


def mixed(weighted: Sequence[tuple[np.ndarray, Colour]]) -> np.ndarray:
    """Colours mixed by weight, transparent where all are zero.

    Args:
      weighted: per colour, weights ``[rows, columns]``, 0 or more. Opacity is the sum of the
        weights, relative to the largest sum in the picture.

    Returns:
      uint8 ``[rows, columns, 4]``, at most 512 along an axis.
    """
    weights = [shrunk(np.asarray(weight, float)) for weight, _ in weighted]
    total = np.sum(weights, axis=0)
    rgba = np.zeros((*total.shape, 4))
    for weight, (_, colour) in zip(weights, weighted, strict=True):
        rgba[..., :3] += weight[..., None] * np.array(colour, float)
    rgba[..., :3] /= np.maximum(total, 1e-12)[..., None]
    rgba[..., 3] = 255 * total / max(float(total.max()), 1e-12)
    return np.clip(np.rint(rgba), 0, 255).astype(np.uint8)


def enlarged(image: np.ndarray, width: int) -> np.ndarray:
    """A small picture with every pixel repeated, up to this width, so that none is blurred."""
    factor = max(1, width // image.shape[1])
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def shrunk(weight: np.ndarray) -> np.ndarray:
    """Weights ``[rows, columns]``, averaged over blocks where they are too many for a picture."""
    for axis in (0, 1):
        n = weight.shape[axis]
        if n > LARGEST:
            starts = np.unique(np.linspace(0, n, LARGEST, endpoint=False).astype(int))
            sizes = np.diff(np.append(starts, n))
            sums = np.add.reduceat(weight, starts, axis=axis)
            weight = sums / (sizes[:, None] if axis == 0 else sizes)
    return weight
