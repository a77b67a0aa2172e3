"""Scikit-learn's handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.train.data.dataset import Dataset, Images


@named("digits")
@dataclass(frozen=True)
class Digits:
    """Scikit-learn's handwritten digits: 1797 images of 8 x 8, split 80 : 20, stratified.

    Attributes:
      batch_size: images per optimizer update, over all micro-batches and devices.
    """

    batch_size: int = 128

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, at_least=1)

    def load(self, name: str) -> Dataset:
        """The data set."""
        return load()


@cache  # trials of a sweep share it
def load() -> Dataset:
    """1437 images to train on, 360 to test; 8 x 8 pixels.

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

    def split(images: np.ndarray, classes: np.ndarray) -> Images:
        return Images(((images - mean) / deviation).astype(np.float32), classes.astype(np.int32))

    return Dataset(
        train=split(train, labels[0]),
        test=split(test, labels[1]),
        shape=train.shape[1:],
        classes=10,
    )
