"""Standard augmentation of images: arrays and random numbers in, arrays out.

Random numbers come in as uniform numbers in [0, 1), a row for each image, so that what happens to
an image depends on nothing else: not on the batch it is in, not on the process that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_TRIES = 10
# What ImageNet's training images are known by.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Of different sizes, or ``[n, height, width, channels]``.
Images = Sequence[np.ndarray] | np.ndarray


def pad_and_crop(images: np.ndarray, chance: np.ndarray, margin: int = 4) -> np.ndarray:
    """Crops of the images' own size, anywhere in the images with a black margin around them.

    Args:
      images: ``[n, height, width, channels]``.
      chance: ``[n, 2]``, for the place from the top and from the left.
      margin: pixels on every side.
    """
    n, height, width, channels = images.shape
    padded = np.zeros((n, height + 2 * margin, width + 2 * margin, channels), images.dtype)
    padded[:, margin : margin + height, margin : margin + width] = images
    top, left = (chance * (2 * margin + 1)).astype(int).T
    windows = sliding_window_view(padded, (height, width, channels), (1, 2, 3))
    return windows[np.arange(n), top, left, 0]


def flip(images: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Images ``[n, height, width, channels]``, mirrored left to right where ``chance`` ``[n]`` is
    below one half."""
    mirrored = chance < 0.5
    result = images.copy()
    result[mirrored] = images[mirrored, :, ::-1]
    return result


def boxes(sizes: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Where random resized crops lie, as in Inception's training.

    A box has 8 to 100 % of the image's area and a ratio of sides between 3:4 and 4:3, its
    logarithm uniform; the first of ten tries that fits into the image. If none does: the largest
    box of an allowed ratio, in the middle.

    Args:
      sizes: int ``[n, 2]``: heights and widths.
      chance: ``[n, 40]``: ten tries of area, ratio, place from the top, from the left.

    Returns:
      int ``[n, 4]``: top, left, height, width.
    """
    height, width = (x[:, None] for x in sizes.T)
    area, ratio, top, left = np.moveaxis(chance.reshape(len(sizes), _TRIES, 4), -1, 0)
    area = height * width * (0.08 + 0.92 * area)
    ratio = np.exp(np.log(3 / 4) + np.log(16 / 9) * ratio)
    tall = np.round(np.sqrt(area / ratio)).astype(int)
    wide = np.round(np.sqrt(area * ratio)).astype(int)
    fits = (0 < tall) & (tall <= height) & (0 < wide) & (wide <= width)

    # The middle, as a further try that always fits.
    middle = np.round(np.minimum(sizes, sizes[:, ::-1] * 4 / 3)).astype(int)
    tall, wide = (np.concatenate([x, middle[:, [i]]], 1) for i, x in enumerate((tall, wide)))
    half = np.full((len(sizes), 1), 0.5)
    top, left = (np.concatenate([x, half], 1) for x in (top, left))
    first = np.concatenate([fits, half > 0], 1).argmax(1)

    every = np.arange(len(sizes))
    tall, wide, top, left = (x[every, first] for x in (tall, wide, top, left))
    top = (top * (sizes[:, 0] - tall + 1)).astype(int)
    left = (left * (sizes[:, 1] - wide + 1)).astype(int)
    return np.stack([top, left, tall, wide], 1)


def centre_boxes(sizes: np.ndarray) -> np.ndarray:
    """The middle squares of 7/8 of the shorter side, int ``[n, 4]`` as from :func:`boxes`: what
    remains of an image whose shorter side is made 256 pixels if 224 x 224 of it are kept."""
    side = np.round(sizes.min(1) * 224 / 256).astype(int)
    top, left = ((sizes - side[:, None]) // 2).T
    return np.stack([top, left, side, side], 1)


def resized(images: Images, boxes: np.ndarray, side: int = 224) -> np.ndarray:
    """Boxes cut out of images and made ``side`` x ``side`` pixels, by Pillow's bilinear filter.

    Args:
      images: uint8 ``[height, width, 3]`` each; they may differ in size.
      boxes: int ``[n, 4]``, as from :func:`boxes`.
      side: of what comes out, uint8 ``[n, side, side, 3]``.
    """
    from PIL import Image

    result = np.empty((len(images), side, side, 3), np.uint8)
    for i, (image, (top, left, tall, wide)) in enumerate(zip(images, boxes, strict=True)):
        cut = Image.fromarray(image[top : top + tall, left : left + wide])
        result[i] = np.asarray(cut.resize((side, side), Image.Resampling.BILINEAR))
    return result


def normalise(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """``(images - mean) / std``, float32; ``mean`` and ``std`` are ``[channels]``."""
    shape = images.shape
    # Rows as long as an image: arithmetic on a last axis of 3 takes five times as long.
    scale, shift = (np.broadcast_to(x, shape[1:]).ravel() for x in (1 / std, -mean / std))
    result = np.multiply(images.reshape(shape[0], -1), scale, dtype=np.float32)
    result += shift
    return result.reshape(shape)


class Augmentation(NamedTuple):
    """What is done to images before they are normalised.

    Attributes:
      chances: random numbers that an image takes.
      train: from images and ``[n, chances]`` random numbers to an array of images.
      test: from images to an array of images; nothing is random.
      side: height and width of what comes out; None: those of the images, which must be equal.
    """

    chances: int
    train: Callable[[Images, np.ndarray], np.ndarray]
    test: Callable[[Images], np.ndarray]
    side: int | None = None


def _cifar(images: Images, chance: np.ndarray) -> np.ndarray:
    return flip(pad_and_crop(np.asarray(images), chance[:, :2]), chance[:, 2])


def _imagenet(images: Images, chance: np.ndarray) -> np.ndarray:
    return flip(resized(images, boxes(_sizes(images), chance[:, 1:])), chance[:, 0])


def _imagenet_test(images: Images) -> np.ndarray:
    return resized(images, centre_boxes(_sizes(images)))


def _sizes(images: Images) -> np.ndarray:
    return np.array([image.shape[:2] for image in images])


AUGMENTATIONS = {
    "none": Augmentation(0, lambda images, chance: np.asarray(images), np.asarray),
    "cifar": Augmentation(3, _cifar, np.asarray),
    "imagenet": Augmentation(1 + 4 * _TRIES, _imagenet, _imagenet_test, side=224),
}
