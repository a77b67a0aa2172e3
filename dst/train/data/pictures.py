"""Encoded images, wherever they lie: decoded by Pillow, in memory or where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np

from dst.core import extras
from dst.train.data import augment, labelled, labels, statistics
from dst.train.data.dataset import Dataset
from dst.train.data.examples import THREADS, Examples, at_once, fits, in_memory

_GREY = frozenset({"1", "L"})  # Pillow's names of what a pixel is made of
_DEEP = ("I", "F")  # more than 8 bits
_MODES = {1: "L", 3: "RGB"}


class Encoded(Protocol):
    """An encoded image that is no file of its own; ``str`` of it says where it lies."""

    def stream(self) -> BinaryIO:
        """Its bytes."""


Item = Path | Encoded


@dataclass(frozen=True)
class Shaped:
    """What every config of images may say.

    Attributes:
      size: height and width that images are resized to; null: that of the images, which must be
        equal.
      channels: 1 of grey images, 3 of colours; null: 1 where every image is grey. The saved config
        has it.
      augment: of training images: none; cifar: 4 pixels of margin, a random crop, a random flip;
        imagenet: a random resized crop to 224 x 224 and a random flip, for evaluation 7/8 of the
        shorter side in the middle, both normalised by ImageNet's mean and std if none are given.
    """

    size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    augment: Literal["none", "cifar", "imagenet"] = "none"

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be a height and a width >= 1, got {list(self.size)}.")
        if self.augment == "imagenet" and (self.size is not None or self.channels == 1):
            raise ValueError("augment imagenet needs size null, and 3 channels.")


@dataclass(frozen=True)
class Pictures:
    """Images that are decoded where they are needed.

    Attributes:
      items: the images.
      labels: ``[n, ...]``.
      mode: Pillow's name of the channels that they are converted to.
      size: height and width that they are resized to; None: as they are.
    """

    items: Sequence[Item]
    labels: np.ndarray
    mode: str
    size: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.items)

    def read(self, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Images uint8 ``[height, width, channels]`` and their labels."""
        return [self._decoded(self.items[i]) for i in chosen], self.labels[chosen]

    def _decoded(self, item: Item) -> np.ndarray:
        from PIL import Image

        with _opened(item) as opened:
            image = opened.convert(self.mode)
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        array = np.asarray(image)
        return array.reshape(*array.shape[:2], -1)


@contextmanager
def _opened(item: Item) -> Iterator[Any]:
    """An image of Pillow; what it cannot read is an error that names it."""
    from PIL import Image

    try:
        with Image.open(item if isinstance(item, Path) else item.stream()) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"data: {item} is no image that Pillow can read: {error}. Repair it or take it out."
        ) from error


def dataset(
    parts: Sequence[tuple[Sequence[Item], np.ndarray]],
    settings: Any,
    kind: str | None,
    where: str,
    names: Sequence[str] = (),
    classes: Sequence[str] | None = None,
) -> Dataset:
    """A data set of images.

    Args:
      parts: images and raw labels of all examples, or of two splits.
      settings: :class:`Shaped`, and :class:`dst.train.data.labelled.Labelled`.
      kind: of labels, as the objective of the config needs them; None: as they are.
      where: what holds the images, for messages.
      names: of the columns of labels.
      classes: names in the order of the outputs, where neither the config has them nor their own
        order counts; None: sorted.

    Raises:
      ValueError: an image that cannot be read, images of different sizes, labels that do not fit, a
        class in one split only.
    """
    with extras.required():
        import PIL  # noqa: F401 (before files are looked at)
    every = [item for items, _ in parts for item in items]
    raw = np.concatenate([y for _, y in parts])
    found = labels.encoded(raw, kind, where, names, settings.classes or classes)
    chosen = labelled.chosen(parts, found, settings, where)
    labels.check_both(found, *chosen, where)
    values: np.ndarray = found.values
    target: dict[str, Any] = {}
    if isinstance(settings, labelled.WithTargets):
        values, target = labelled.targets(found, chosen[0], settings)

    grey, size = _headers(every, settings)
    channels = settings.channels or (1 if grey else 3)
    shape = (*size, channels)
    splits: list[Any] = [
        Pictures([every[i] for i in x], values[x], _MODES[channels], settings.size) for x in chosen
    ]
    # Images that differ in size are no array.
    held = settings.augment != "imagenet" and fits(max(map(len, splits)), shape, 1)
    if held:
        splits = [in_memory(x) for x in splits]
    mean, std = _moments(splits, settings, held, channels)
    scaled = np.array(mean) * 255, np.array(std) * 255
    train, test = (Examples(x, augment.AUGMENTATIONS[settings.augment], *scaled) for x in splits)
    return Dataset(
        train=train,
        test=test,
        shape=shape,
        classes=found.outputs,
        objective=labels.OBJECTIVES[found.kind],
        at_once=at_once(shape),
        threads=0 if held else THREADS,
        units=target.get("target_std"),
        identity={
            "channels": channels,
            **({"mean": mean, "std": std} if settings.normalise else {}),
            **({"classes": found.names} if found.kind == "class" else {}),
            **target,
        },
    )


def _headers(every: Sequence[Item], settings: Any) -> tuple[bool, tuple[int, int]]:
    """Whether every image is grey, and height and width of what the network sees."""
    with ThreadPoolExecutor(THREADS) as pool:
        headers = list(pool.map(_header, every))
    for item, (mode, _) in zip(every, headers, strict=True):
        if mode.startswith(_DEEP):
            raise ValueError(
                f"data: images must have 8 bits per channel, {item} has mode {mode!r} of Pillow."
            )
    grey = all(mode in _GREY for mode, _ in headers)
    if side := augment.AUGMENTATIONS[settings.augment].side:
        return False, (side, side)
    if settings.size is not None:
        return grey, settings.size
    first = headers[0][1]
    for item, (_, size) in zip(every, headers, strict=True):
        if size != first:
            raise ValueError(
                f"data.size must be a height and a width for images that differ in size: "
                f"{every[0]} has {list(first)} and {item} has {list(size)}. Images are resized to "
                "it; or set data.augment=imagenet."
            )
    return grey, first


def _header(item: Item) -> tuple[str, tuple[int, int]]:
    with _opened(item) as image:
        return image.mode, (image.height, image.width)


def _moments(
    splits: Sequence[Any], settings: Any, held: bool, channels: int
) -> tuple[statistics.Numbers, statistics.Numbers]:
    """By what images are normalised, as numbers in [0, 1]."""
    if not settings.normalise:
        return (0.0,) * channels, (1.0,) * channels
    if settings.mean is not None and settings.std is not None:
        statistics.check_length(settings.mean, settings.std, channels, "images")
        return settings.mean, settings.std
    if settings.augment == "imagenet":
        return augment.IMAGENET_MEAN, augment.IMAGENET_STD
    if held:
        return statistics.moments(splits[0].inputs, 255.0)
    sums = [_sums(split) for split in splits]  # every image is decoded once, the test images too
    n, first, second = sums[0]
    mean = first / n
    return statistics.rounded(mean, np.sqrt(np.maximum(second / n - mean**2, 0)), 255.0)


def _sums(split: Pictures) -> tuple[int, np.ndarray, np.ndarray]:
    """How many numbers a channel has, their sum, and that of their squares; exact integers."""

    def of(i: int) -> tuple[int, np.ndarray, np.ndarray]:
        (image,), _ = split.read(np.array([i]))
        rows = image.reshape(-1, image.shape[-1]).astype(np.int64)
        return len(rows), rows.sum(0), (rows**2).sum(0)

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(of, range(len(split))))
    numbers, first, second = zip(*parts, strict=True)
    return sum(numbers), np.sum(first, 0), np.sum(second, 0)
