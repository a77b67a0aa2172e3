"""Examples of a split: read from memory or from files, augmented and normalised."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dst.train.data import augment
from dst.train.data.dataset import Batch

THREADS = min(16, os.cpu_count() or 1)
_IN_MEMORY = 2**30  # bytes of a split that is read once and kept
_AT_ONCE = 2**26  # bytes of test examples that are evaluated together


class Source(Protocol):
    """Inputs as they are stored, and labels."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, chosen: np.ndarray) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        """The examples of these indices, int ``[n]``; safe in many threads."""


@dataclass(frozen=True)
class Examples:
    """Examples of a split, in memory or on disk.

    Attributes:
      source: what they are read from.
      augmentation: what is done to inputs.
      mean, std: float64 ``[channels]``, in units of the inputs.
    """

    source: Source
    augmentation: augment.Augmentation
    mean: np.ndarray
    std: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    @property
    def chances(self) -> int:
        """Random numbers of an augmented example."""
        return self.augmentation.chances

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """Inputs, float32, and labels."""
        inputs, labels = self.source.read(chosen)
        if chance is None:
            inputs = self.augmentation.test(inputs)
        else:
            inputs = self.augmentation.train(inputs, chance)
        return augment.normalise(inputs, self.mean, self.std), labels


@dataclass(frozen=True)
class Arrays:
    """Examples in memory: ``[n, ...]`` inputs as they are stored, and labels ``[n, ...]``."""

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples of these indices."""
        return self.inputs[chosen], self.labels[chosen]


def in_memory(records: Source) -> Arrays:
    """All examples, read in parts by threads: Pillow and array_record work outside the GIL."""
    parts = np.array_split(np.arange(len(records)), max(1, len(records) // 256))
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(records.read, parts))
    return Arrays(
        np.concatenate([np.asarray(inputs) for inputs, _ in read]),
        np.concatenate([labels for _, labels in read]),
    )


def fits(examples: int, shape: Sequence[int], size: int) -> bool:
    """Whether a split is kept in memory.

    Args:
      examples: of the split.
      shape: of an input.
      size: bytes of a number in it.
    """
    return examples * int(np.prod(shape)) * size <= _IN_MEMORY


def at_once(shape: Sequence[int]) -> int:
    """How many test examples are evaluated together, by the shape of an input."""
    return max(1, min(1024, _AT_ONCE // int(4 * np.prod(shape))))
