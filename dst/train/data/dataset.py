"""What every data set is: examples by index, and the order in which training reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dst.train.objectives.task import Task

Batch = tuple[np.ndarray, np.ndarray]  # inputs and labels, with a leading axis of examples


@runtime_checkable
class Split(Protocol):
    """Examples that are told apart by an index.

    Attributes:
      chances: how many random numbers an example takes to be augmented; 0: nothing is augmented.
    """

    @property
    def chances(self) -> int: ...

    def __len__(self) -> int:
        """How many there are."""

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """The examples of these indices, int ``[n]``; safe in many threads.

        Args:
          chosen: which.
          chance: float64 ``[n, chances]`` in [0, 1), by which each is augmented; None: none is.
        """


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
    chances: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
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
    chances: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
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
      dtype: of the inputs.
      at_once: test examples that are evaluated together, so that memory is bounded.
      threads: that read ahead, a batch each; 0 where all examples are in memory.
      identity: fields of the config's data section that pin what a run was trained on, where that
        depends on the machine.
    """

    train: Split
    test: Split
    shape: tuple[int, ...]
    classes: int
    task: Task
    dtype: Any = np.float32
    at_once: int = 1024
    threads: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)


def indices(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """Which of ``n`` training examples make up the batch of a step; a pure function.

    Epochs follow each other without a gap: each is a new shuffle of all training examples, and a
    batch that reaches the end of one goes on in the next.

    Args:
      n: number of training examples.
      size: examples per batch.
      seed: of the shuffles.
      step: optimizer updates done before.
    """
    epoch, first = divmod(step * size, n)
    parts = [_shuffle(n, seed, epoch)[first : first + size]]
    while (missing := size - sum(map(len, parts))) > 0:
        epoch += 1
        parts.append(_shuffle(n, seed, epoch)[:missing])
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


@lru_cache(maxsize=4)
def _shuffle(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)
