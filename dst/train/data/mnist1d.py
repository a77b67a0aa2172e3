"""MNIST-1D: drawn digits as signals of 40 numbers, on which networks differ by tens of points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.train.data import splits
from dst.train.data.dataset import Dataset, Images

_SEED, _EXAMPLES, _TRAIN = 42, 5000, 4000
_ZEROS = 36, 60  # fewest and most of them behind a pattern
_LENGTH, _OUTPUT = 72, 40  # of a signal while it is changed, and at the end
_SCALE, _SHIFT, _SHEAR = 0.4, 48, 0.75
_SMOOTH, _WIDTH, _WHITE = 0.25, 2, 0.02  # noise: of the background, its smoothing; everywhere
# How a pen moves sideways from the top of a digit to its foot: 12 places for each of 0 to 9.
_PATTERNS = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


@named("mnist1d")
@dataclass(frozen=True)
class Mnist1d:
    """MNIST-1D: 4000 signals to train on and 1000 to test, `[40, 1]`, made on the spot.

    Published test accuracies are 32 % (linear), 68 % (MLP), 91 % (GRU) and 94 % (CNN), of 10
    classes. The data are those of the authors' seed 42.

    Attributes:
      batch_size: signals per optimizer update, over all micro-batches and devices.
      validation: fraction of the training signals, in (0, 1), the same of every class, that is
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
    """The data set; see :class:`Mnist1d`."""
    x, y = generated()
    inputs, classes = x[..., None].astype(np.float32), y.astype(np.int32)
    train, test = splits.for_tuning(
        (inputs[:_TRAIN], classes[:_TRAIN]),
        (inputs[_TRAIN:], classes[_TRAIN:]),
        validation,
        "mnist1d",
    )
    return Dataset(Images(*train), Images(*test), shape=(_OUTPUT, 1), classes=10)


@cache
def generated() -> tuple[np.ndarray, np.ndarray]:
    """All signals, float64 ``[5000, 40]``, and their digits, int ``[5000]``; the first 4000 train.

    Each of the ten patterns is changed 500 times; then all signals are shuffled. Over all numbers
    of all signals the mean is 0 and the standard deviation 1, as published: the test split takes
    part in both.

    References:
      Greydanus and Kobak 2020, "Scaling Down Deep Learning with MNIST-1D" (arXiv 2011.14439).

    Checked against: ``make_dataset`` of PyPI's mnist1d 0.0.2.post1, equal in every bit:
    tests/train/data/test_mnist1d.py.
    """
    random = np.random.RandomState(_SEED)  # the published numbers are those of this generator
    patterns = np.array(_PATTERNS)
    patterns -= patterns.mean(1, keepdims=True)
    patterns /= patterns.std(1, keepdims=True)
    patterns = (patterns - patterns[:, :1]) / 6  # a signal begins and ends near 0
    y = np.repeat(np.arange(10), _EXAMPLES // 10)
    x = np.stack([_changed(patterns[digit], random) for digit in y])
    order = random.permutation(_EXAMPLES)
    x, y = x[order], y[order]
    x = (x - x.mean()) / x.std()
    x.flags.writeable = y.flags.writeable = False  # shared by all callers
    return x, y


def _changed(pattern: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A pattern at random width, height and place, before noise and on a slope.

    The order of the random draws is that of the published data.
    """
    from scipy.ndimage import gaussian_filter1d

    fewest, most = _ZEROS
    zeros = np.zeros(fewest + int(random.rand() * (most - fewest + 1)))
    # Exact zeros are the background; the pattern has none.
    signal = _resampled(np.concatenate([pattern + 1e-8, zeros]), _LENGTH)
    signal = signal * (1 + _SCALE * (random.rand() - 0.5))
    signal = np.roll(signal, random.choice(_SHIFT))
    background = gaussian_filter1d(_SMOOTH * random.randn(_LENGTH), _WIDTH)
    signal = np.where(signal != 0, signal, background) + _WHITE * random.randn(_LENGTH)
    slope = _SHEAR * (random.rand() - 0.5)
    return _resampled(signal - slope * np.linspace(-0.5, 0.5, _LENGTH), _OUTPUT)


def _resampled(signal: np.ndarray, length: int) -> np.ndarray:
    """The signal at so many even places, by straight lines between its own."""
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(signal)), signal)
