"""Laws of batches: a function of seed and step, every image once per epoch."""

from __future__ import annotations

import numpy as np

from dst.train import data


def test_every_epoch_shows_every_image_once():
    n, size = 37, 8
    stream = np.concatenate([data.indices(n, size, 0, step) for step in range(37)])
    for epoch in stream.reshape(8, n):
        assert sorted(epoch) == list(range(n))


def test_epochs_and_seeds_shuffle_differently():
    assert not np.array_equal(data.indices(50, 50, 0, 0), data.indices(50, 50, 0, 1))
    assert not np.array_equal(data.indices(50, 50, 0, 0), data.indices(50, 50, 1, 0))


def test_a_batch_is_a_function_of_seed_and_step():
    forward = [data.indices(37, 8, 3, step) for step in range(12)]
    backward = [data.indices(37, 8, 3, step) for step in reversed(range(12))]
    np.testing.assert_array_equal(forward, backward[::-1])


def test_the_split_of_digits_is_fixed_stratified_and_disjoint():
    first, second = data.digits.load(), data.digits.load()
    assert (len(first.train), len(first.test)) == (1437, 360)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert abs(first.train.images.mean()) < 1e-5 and abs(first.train.images.std() - 1) < 1e-5
    for split in (first.train, first.test):
        shares = np.bincount(split.labels) / len(split)
        assert abs(shares - 0.1).max() < 0.01
    images = np.concatenate([first.train.images, first.test.images]).reshape(1797, -1)
    assert len(np.unique(images, axis=0)) == 1797
