"""Data sets, and batches as a function of seed and step, so that a resumed run sees the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dst.train.schema import Section


@dataclass(frozen=True)
class Split:
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

    def in_parts(self, parts: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels with a leading axis of micro-batches."""
        return (
            self.images.reshape(parts, -1, *self.images.shape[1:]),
            self.labels.reshape(parts, -1),
        )


@dataclass(frozen=True)
class Dataset:
    """A data set: two splits without common images, and the number of classes."""

    train: Split
    test: Split
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.train.images.shape[1:]

    def batch(self, seed: int, step: int, size: int) -> Split:
        """The training batch of an optimizer step; a pure function, so no position is stored.

        Epochs follow each other without a gap: each is a new shuffle of all training images, and
        a batch that reaches the end of one goes on in the next.

        Args:
          seed: of the shuffles.
          step: optimizer updates done before.
          size: images per batch.
        """
        chosen = indices(len(self.train), size, seed, step)
        return Split(self.train.images[chosen], self.train.labels[chosen])


def indices(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """Which of ``n`` training images make up the batch of a step."""
    positions = np.arange(step * size, (step + 1) * size)
    epochs = positions // n
    return np.concatenate(
        [_shuffle(n, seed, int(e))[positions[epochs == e] % n] for e in np.unique(epochs)]
    )


@lru_cache(maxsize=4)
def _shuffle(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def load(section: Section) -> Dataset:
    """The data set that a config names.

    Raises:
      ValueError: a batch larger than the training split.
    """
    found = {"digits": digits}[section.name]()
    size = section.value.batch_size
    if size > len(found.train):
        raise ValueError(
            f"data.batch_size must be at most {len(found.train)}, the number of training images, "
            f"got {size}."
        )
    return found


def digits() -> Dataset:
    """Scikit-learn's handwritten digits: 1437 images to train on, 360 to test; 8 x 8 pixels.

    The split is fixed and stratified by class. Source: UCI "Optical Recognition of Handwritten
    Digits", its test part, shipped with scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    train, test, *labels = train_test_split(
        raw.images[..., None], raw.target, test_size=0.2, stratify=raw.target, random_state=0
    )
    mean, deviation = train.mean(), train.std()

    def split(images: np.ndarray, classes: np.ndarray) -> Split:
        return Split(((images - mean) / deviation).astype(np.float32), classes.astype(np.int32))

    return Dataset(split(train, labels[0]), split(test, labels[1]), classes=10)
