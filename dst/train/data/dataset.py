"""What every data set is: examples by index, and batches as a function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from dst.train.task import Task

Batch = tuple[np.ndarray, np.ndarray]  # inputs and labels, with a leading axis of examples


@runtime_checkable
class Split(Protocol):
    """Examples that are told apart by an index."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, chosen: np.ndarray) -> Batch:
        """The examples of these indices, int ``[n]``."""


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    Attributes:
      images: float32 ``[n, height, width, channels]``; over the training images, pixels have
        mean 0 and standard deviation 1.
      labels: int32 ``[n]``.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Batch:
        """Images and their classes."""
        return self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class Windows:
    """Pieces of one long text, and the byte that follows each of theirs.

    Attributes:
      text: uint8 ``[length]``.
      starts: int ``[n]``: where each piece begins.
      context: bytes per piece.
    """

    text: np.ndarray
    starts: np.ndarray
    context: int

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, chosen: np.ndarray) -> Batch:
        """Bytes, int32 ``[n, context]``, and the same bytes one place further on."""
        places = self.starts[chosen][:, None] + np.arange(self.context + 1)[None]
        found = self.text[places].astype(np.int32)
        return found[:, :-1], found[:, 1:]


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
      train, test: splits without common examples.
      shape: of one input.
      classes: number of different labels.
      task: what is asked of a network.
      at_once: test examples that are evaluated together, so that memory is bounded.
      identity: fields of the config's data section that pin what a run was trained on, where that
        depends on the machine.
    """

    train: Split
    test: Split
    shape: tuple[int, ...]
    classes: int
    task: Task
    at_once: int = 1024
    identity: Mapping[str, str] = field(default_factory=dict)

    def batch(self, seed: int, step: int, size: int) -> Batch:
        """The training batch of an optimizer step; a pure function, so no position is stored.

        Epochs follow each other without a gap: each is a new shuffle of all training examples,
        and a batch that reaches the end of one goes on in the next.

        Args:
          seed: of the shuffles.
          step: optimizer updates done before.
          size: examples per batch.
        """
        return self.train.take(indices(len(self.train), size, seed, step))

    def test_batches(self) -> Iterator[Batch]:
        """All test examples, always in the same order."""
        for start in range(0, len(self.test), self.at_once):
            yield self.test.take(np.arange(start, min(start + self.at_once, len(self.test))))


def in_parts(batch: Batch, parts: int) -> Batch:
    """Inputs and labels with a leading axis of micro-batches."""
    inputs, labels = (x.reshape(parts, -1, *x.shape[1:]) for x in batch)
    return inputs, labels


def indices(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """Which of ``n`` training examples make up the batch of a step."""
    positions = np.arange(step * size, (step + 1) * size)
    epochs = positions // n
    return np.concatenate(
        [_shuffle(n, seed, int(e))[positions[epochs == e] % n] for e in np.unique(epochs)]
    )


@lru_cache(maxsize=4)
def _shuffle(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)
