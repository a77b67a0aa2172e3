"""A folder of images for each class, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dst.core import extras
from dst.core.registry import named
from dst.train.data import augment, files, labelled, labels, statistics
from dst.train.data.dataset import Dataset
from dst.train.data.examples import THREADS, Examples, at_once, fits, in_memory

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_ENDINGS |= {".ppm", ".pgm"}
_GREY = frozenset({"1", "L"})  # Pillow's names of what a pixel is made of
_DEEP = ("I", "F")  # more than 8 bits
_MODES = {1: "L", 3: "RGB"}


@named("images:*", path=True)
@dataclass(frozen=True)
class Images(labelled.Labelled):
    """Images in a folder for each class: `images:flowers` with `flowers/rose/1.jpg` and so on.

    Where the folder has `train` and `test` (or `val`), each with folders of classes, they are the
    splits. What is above 1 GB is decoded where it is needed, by threads.

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
        super().__post_init__()
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be a height and a width >= 1, got {list(self.size)}.")
        if self.augment == "imagenet" and (self.size is not None or self.channels == 1):
            raise ValueError("augment imagenet needs size null, and 3 channels.")

    def load(self, name: str, kind: str | None = None) -> Dataset:
        """The data set ``images:folder``."""
        return load(name.removeprefix("images:"), self)


@dataclass(frozen=True)
class Pictures:
    """Images on disk.

    Attributes:
      files: of the images.
      labels: int32 ``[n]``.
      mode: Pillow's name of the channels that they are converted to.
      size: height and width that they are resized to; None: as they are.
    """

    files: Sequence[Path]
    labels: np.ndarray
    mode: str
    size: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Images uint8 ``[height, width, channels]`` and their classes."""
        return [self._decoded(self.files[i]) for i in chosen], self.labels[chosen]

    def _decoded(self, path: Path) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(path) as opened:
                image = opened.convert(self.mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(_unreadable(path, error)) from error
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        array = np.asarray(image)
        return array.reshape(*array.shape[:2], -1)


def load(path: str, settings: Images) -> Dataset:
    """The data set of a folder.

    Raises:
      ValueError: no such folder, a class without images, a file that is no image, images of
        different sizes, a class in one split only, or other files than the settings pin.
    """
    with extras.required():
        import PIL  # noqa: F401 (before files are looked at)
    root = Path(path)
    parts = [_classes(folder) for folder in _splits(root)]
    every = [file for found, _ in parts for file in found]
    sha256 = files.names_and_sizes(root, every)
    files.check(sha256, settings.sha256, path)
    names = np.array([name for _, found in parts for name in found])
    found = labels.encoded(names, "class", path, classes=settings.classes)
    chosen = labelled.chosen(parts, found, settings, path)
    labels.check_both(found, *chosen, path)

    grey, size = _headers(every, settings)
    channels = settings.channels or (1 if grey else 3)
    shape = (*size, channels)
    splits: list[Any] = [
        Pictures([every[i] for i in x], found.values[x], _MODES[channels], settings.size)
        for x in chosen
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
        at_once=at_once(shape),
        threads=0 if held else THREADS,
        identity={
            "classes": found.names,
            "channels": channels,
            "sha256": sha256,
            **({"mean": mean, "std": std} if settings.normalise else {}),
        },
    )


def _splits(root: Path) -> list[Path]:
    if not root.is_dir():
        raise ValueError(files.missing("a folder of images", str(root)))
    if not (root / "train").is_dir():
        return [root]
    held_out = [x for name in ("test", "val") if (x := root / name).is_dir()]
    if not held_out:
        raise ValueError(f"data: expected a folder 'test' or 'val' beside {root / 'train'}.")
    return [root / "train", held_out[0]]


def _classes(folder: Path) -> tuple[list[Path], list[str]]:
    """Images and the names of their classes, sorted."""
    names = sorted(x.name for x in folder.iterdir() if x.is_dir() and x.name[0] != ".")
    if not names:
        raise ValueError(
            f"data: expected a folder of images for each class in {folder}, found none."
        )
    images: list[Path] = []
    classes: list[str] = []
    for name in names:
        own = sorted(x for x in (folder / name).rglob("*") if _is_image(x))
        if not own:
            raise ValueError(
                f"data: expected images of class {name!r} in {folder / name}, found none; they end "
                f"with one of {sorted(_ENDINGS)}."
            )
        images += own
        classes += [name] * len(own)
    return images, classes


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _ENDINGS and path.name[0] != "." and path.is_file()


def _headers(every: Sequence[Path], settings: Images) -> tuple[bool, tuple[int, int]]:
    """Whether every image is grey, and height and width of what the network sees."""
    with ThreadPoolExecutor(THREADS) as pool:
        headers = list(pool.map(_header, every))
    for path, (mode, _) in zip(every, headers, strict=True):
        if mode.startswith(_DEEP):
            raise ValueError(
                f"data: images must have 8 bits per channel, {path} has mode {mode!r} of Pillow."
            )
    grey = all(mode in _GREY for mode, _ in headers)
    if side := augment.AUGMENTATIONS[settings.augment].side:
        return False, (side, side)
    if settings.size is not None:
        return grey, settings.size
    first = headers[0][1]
    for path, (_, size) in zip(every, headers, strict=True):
        if size != first:
            raise ValueError(
                f"data.size must be a height and a width for images that differ in size: "
                f"{every[0]} has {list(first)} and {path} has {list(size)}. Images are resized to "
                "it; or set data.augment=imagenet."
            )
    return grey, first


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode, (image.height, image.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    return f"data: {path} is no image that Pillow can read: {error}. Repair it or take it out."


def _moments(
    splits: Sequence[Any], settings: Images, held: bool, channels: int
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
