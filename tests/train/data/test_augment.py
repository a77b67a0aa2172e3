"""Laws of augmentation: as a plain loop over images, each of them for itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dst.train.data import augment


def _images(n, height=8, width=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), np.uint8)


def _chance(n, width, seed=1):
    return np.random.default_rng(seed).random((n, width))


def _plain_crop(image, chance, margin):
    """The pixel at (i, j) of the crop is that at (i + top, j + left), black outside."""
    height, width, _ = image.shape
    found = np.zeros_like(image)
    top, left = (math.floor(u * (2 * margin + 1)) - margin for u in chance)
    for i in range(height):
        for j in range(width):
            if 0 <= i + top < height and 0 <= j + left < width:
                found[i, j] = image[i + top, j + left]
    return found


def _plain_box(height, width, chance):
    """Inception's crop, one try after the other."""
    for area, ratio, top, left in chance.reshape(10, 4):
        area = height * width * (0.08 + 0.92 * area)
        ratio = (3 / 4) * (16 / 9) ** ratio
        tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            return [int(top * (height - tall + 1)), int(left * (width - wide + 1)), tall, wide]
    tall, wide = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return [(height - tall + 1) // 2, (width - wide + 1) // 2, tall, wide]


def test_crops_are_those_of_a_plain_loop():
    images, chance = _images(40, 6, 9), _chance(40, 2)
    chance[:2] = [[0, 0], [1 - 1e-16, 1 - 1e-16]]  # both ends of the range
    found = augment.pad_and_crop(images, chance, margin=2)
    expected = [_plain_crop(x, u, 2) for x, u in zip(images, chance, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_every_place_of_a_crop_is_equally_likely():
    image = np.arange(1, 82, dtype=np.uint8).reshape(1, 9, 9, 1)
    found = augment.pad_and_crop(np.repeat(image, 20_000, 0), _chance(20_000, 2), margin=1)
    corners, counts = np.unique(found[:, 4, 4, 0], return_counts=True)
    assert len(corners) == 9 and abs(counts / 20_000 - 1 / 9).max() < 0.01


def test_flips_mirror_columns_and_half_of_the_images():
    images = _images(1000)
    chance = _chance(1000, 1)[:, 0]
    found = augment.flip(images, chance)
    for image, u, new in zip(images, chance, found, strict=True):
        np.testing.assert_array_equal(new, image[:, ::-1] if u < 0.5 else image)
    assert 0.45 < (found != images).any((1, 2, 3)).mean() < 0.55


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_boxes_are_those_of_a_plain_loop_and_lie_inside(height, width, seed):
    chance = _chance(3, 40, seed)
    found = augment.boxes(np.array([[height, width]] * 3), chance)
    for (top, left, tall, wide), u in zip(found, chance, strict=True):
        assert 0 <= top <= top + tall <= height and 0 <= left <= left + wide <= width
        assert tall > 0 and wide > 0
        assert [top, left, tall, wide] == _plain_box(height, width, u)


def test_centre_boxes_keep_seven_eighths_of_the_shorter_side():
    found = augment.centre_boxes(np.array([[256, 256], [256, 512], [500, 375]]))
    assert found.tolist() == [[16, 16, 224, 224], [16, 144, 224, 224], [86, 23, 328, 328]]


def test_a_box_is_resized_as_pillow_resizes_the_cut():
    image = _images(1, 40, 50)[0]
    (found,) = augment.resized([image], np.array([[3, 5, 30, 20]]), side=16)
    cut = Image.fromarray(image[3:33, 5:25]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(cut))


def test_normalised_channels_have_their_mean_and_deviation_taken_off():
    images, mean, std = _images(7, 4, 5), np.array([1.0, 2.0, 30.0]), np.array([3.0, 4.0, 5.0])
    found = augment.normalise(images, mean, std)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (images - mean) / std, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["cifar", "imagenet"])
def test_an_image_is_augmented_alike_in_every_batch_and_left_as_it_was(name):
    found = augment.AUGMENTATIONS[name]
    sizes = [(8, 8)] * 5 if name == "cifar" else [(30, 40), (50, 20), (8, 8), (90, 30), (33, 33)]
    images = [_images(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    before = [x.copy() for x in images]
    batch = np.stack(images) if name == "cifar" else images
    chance = _chance(5, found.chances)
    whole = found.train(batch, chance)
    for i in range(5):
        np.testing.assert_array_equal(whole[i], found.train(batch[i : i + 1], chance[[i]])[0])
        np.testing.assert_array_equal(images[i], before[i])
    side = found.side or 8
    assert whole.shape == found.test(batch).shape == (5, side, side, 3)
    assert whole.dtype == np.uint8


def test_evaluation_changes_no_pixel_where_sizes_are_equal():
    images = _images(3)
    for name in ("none", "cifar"):
        np.testing.assert_array_equal(augment.AUGMENTATIONS[name].test(images), images)
