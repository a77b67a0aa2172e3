"""Labels of positions: which positions of which axes must be kept or removed together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

KEPT = 0  # the label of positions that cannot be removed
ANY = -1  # of positions that a broadcast made: they take the label of what they meet


class Labels:
    """A union of labels: joined ones name positions that are removed together.

    Labels are integers. ``KEPT`` is one of them: what is joined with it cannot be removed.
    """

    def __init__(self) -> None:
        self._parents = [KEPT]

    def new(self, count: int) -> np.ndarray:
        """So many labels that nothing is joined with."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, label: int) -> int:
        """The smallest label that this one is joined with."""
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def join(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Joins labels pair by pair; ``ANY`` is joined with nothing."""
        for a, b in zip(one, other, strict=True):
            if a != b and ANY not in (a, b):
                low, high = sorted((self.root(a), self.root(b)))
                self._parents[high] = low

    def keep(self, labels: Iterable[int]) -> None:
        """Says of labels that what they name cannot be removed."""
        for label in set(labels) - {ANY, KEPT}:
            self._parents[self.root(label)] = KEPT

    def removable(self, labels: np.ndarray) -> bool:
        """Whether any of the labels can still be removed."""
        return any(x != ANY and self.root(x) != KEPT for x in set(labels.tolist()))

    def merged(self, axes: list[np.ndarray]) -> np.ndarray:
        """The labels of axes that become one, the last of them running fastest.

        One of them may be removable: its positions then repeat. Of several none is any more.
        """
        sizes = [len(x) for x in axes]
        own = [i for i, x in enumerate(axes) if self.removable(x)]
        if len(own) == 1:
            shape = [n if i == own[0] else 1 for i, n in enumerate(sizes)]
            return np.broadcast_to(axes[own[0]].reshape(shape), sizes).reshape(-1)
        for i in own:
            self.keep(axes[i].tolist())
        anything = all((x == ANY).all() for x in axes)
        return np.full(int(np.prod(sizes)), ANY if anything else KEPT)

    def split(self, axis: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
        """The labels of axes that were one: positions of the first have labels, others are kept."""
        rows = axis.reshape(sizes[0], -1)
        for row in rows:
            self.join(row[:-1].tolist(), row[1:].tolist())
        if (axis == ANY).all():
            return [np.full(n, ANY) for n in sizes]
        return [rows[:, 0], *(np.full(n, KEPT) for n in sizes[1:])]
