"""Examples held out by a fraction and a seed."""

from __future__ import annotations

import numpy as np

from dst.train.data.labels import Labels

SHARE = 0.2  # of the examples, where neither the config nor the file says


def by_fraction(
    labels: Labels, share: float | None, seed: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which examples are for training and which are held out.

    Of single classes, every class is split: the same fraction of each, rounded, and at least one
    example on each side. Both sides keep the order of the file.

    Args:
      labels: of all examples.
      share: that is held out; None: one in five.
      seed: of the choice.
      where: what holds them, for messages.

    Returns:
      Indices, int ``[n]`` each.

    Raises:
      ValueError: a class, or a file, of a single example.
    """
    share, n = SHARE if share is None else share, len(labels.values)
    groups = labels.values if labels.kind == "class" else np.zeros(n, np.int32)
    counts = np.bincount(groups)
    if single := [labels.names[i] for i in np.flatnonzero(counts == 1)]:
        what = f"class {single[0]!r}" if labels.kind == "class" else "the file"
        raise ValueError(
            f"data.test: {what} of {where} has a single example, and cannot be in both splits. "
            "Add examples or leave it out; if labels are quantities, say objective: regression."
        )
    order = np.random.default_rng(seed).permutation(n)
    order = order[np.argsort(groups[order], kind="stable")]
    held_out = np.zeros(n, bool)
    first = 0
    for count in counts[counts > 0]:
        held = min(max(round(share * count), 1), count - 1)
        held_out[order[first : first + held]] = True
        first += count
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
