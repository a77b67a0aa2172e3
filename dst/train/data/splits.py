"""Examples held out by a fraction and a seed."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from dst.core.text import shown
from dst.train.data.dataset import Pair
from dst.train.data.labels import Labels

SHARE = 0.2  # of the examples, where neither the config nor the file says
_SEED = 0  # of the choice of validation examples


def check(name: str, share: Any) -> None:
    """Raises unless a fraction of examples leaves some on both sides; None is no fraction."""
    number = isinstance(share, Real) and not isinstance(share, bool)
    if share is not None and not (number and 0 < share < 1):
        raise ValueError(f"{name} must be a fraction in (0, 1), got {shown(share)}.")


def for_tuning(train: Pair, test: Pair, share: float | None, where: str) -> tuple[Pair, Pair]:
    """The examples to train on and to evaluate on; with a share, no test example is among them.

    Settings that are chosen by the test split make its figure too good. With a share they are
    chosen by training examples, the same in every run, of every class the same fraction.

    Args:
      train, test: inputs ``[n, ...]`` and classes, int ``[n]``, of the two splits.
      share: of the training examples, in (0, 1), that are evaluated in place of the test split;
        None: the splits as they are.
      where: what holds them, for messages.
    """
    if share is None:
        return train, test
    inputs, classes = train
    names = tuple(map(str, range(classes.max() + 1)))
    kept, held = by_fraction(Labels(classes, "class", names), share, _SEED, where)
    return (inputs[kept], classes[kept]), (inputs[held], classes[held])


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
