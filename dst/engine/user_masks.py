"""Masks that a user supplies: checked against the parameters, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np

from dst.core.tree import Leaf
from dst.core.typing import ArrayLike
from dst.rules.layout import Layout


def leaves_of_masks(leaves: Sequence[Leaf], masks: Mapping[str, ArrayLike]) -> list[Leaf]:
    """The leaves, sparse where there is a mask.

    Args:
      leaves: of :func:`dst.core.tree.survey`.
      masks: bool arrays by leaf path.

    Raises:
      ValueError: a path that is no parameter, another dtype than bool, another shape.
    """
    known = {leaf.path: leaf for leaf in leaves}
    for path, mask in masks.items():
        if path not in known:
            raise ValueError(f"masks: {path!r} is no parameter. The paths are: {', '.join(known)}.")
        if not isinstance(mask, (np.ndarray, jax.Array)) or mask.dtype != bool:
            kind = getattr(mask, "dtype", type(mask).__name__)
            raise ValueError(f"masks: {path!r} must be a bool array, got {kind}.")
        if tuple(mask.shape) != known[path].shape:
            raise ValueError(
                f"masks: {path!r} has shape {tuple(mask.shape)}, its parameter {known[path].shape}."
            )
    return [
        replace(x, sparse=x.path in masks, why="has a mask" if x.path in masks else "has no mask")
        for x in leaves
    ]


def counts_of_masks(leaf: Leaf, layout: Layout, mask: np.ndarray) -> np.ndarray:
    """int32 active units per group of a mask, of shape ``layout.counts``.

    Raises:
      ValueError: units that are active in part, groups of unequal counts, blocks that do not have
        their pattern.
    """
    split = mask.reshape(layout.split)
    if layout.members:
        units = np.asarray(split.any(axis=layout.members))
        if (units != split.all(axis=layout.members)).any():
            raise ValueError(
                f"masks: {leaf.path} is not constant within the units of its structure."
            )
        split = units
    layout.check_mask(leaf.path, split)
    ranked = tuple(a for a in range(split.ndim) if a not in layout.group_axes)
    per_group = split.sum(axis=ranked)
    inner = tuple(range(len(layout.counts), per_group.ndim))
    counts = per_group.max(axis=inner) if inner else per_group
    if inner and (per_group.min(axis=inner) != counts).any():
        raise ValueError(
            f"masks: {leaf.path} has groups with {per_group.min()} to {per_group.max()} active "
            "units, but its structure has equally many in each."
        )
    return np.asarray(counts, np.int32)
