"""Laws of batches: a function of seed and step, every example once per epoch, whoever reads it."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dst.train import data
from dst.train.data import stream


def test_every_epoch_shows_every_image_once():
    n, size = 37, 8
    order = np.concatenate([data.indices(n, size, 0, step) for step in range(37)])
    for epoch in order.reshape(8, n):
        assert sorted(epoch) == list(range(n))


def test_a_batch_may_be_longer_than_an_epoch():
    order = np.concatenate([data.indices(5, 12, 0, step) for step in range(5)])
    for epoch in order.reshape(12, 5):
        assert sorted(epoch) == list(range(5))


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


class Numbers:
    """Examples that are their own index; augmentation adds the random numbers."""

    chances = 2

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def take(self, chosen, chance=None):
        shift = 0 if chance is None else chance.sum(1)
        return (chosen + shift).astype(np.float32)[:, None], chosen.astype(np.int32)


def _numbers(n=37, threads=0):
    return data.Dataset(Numbers(n), Numbers(11), (1,), n, threads=threads, at_once=4)


def _sharding(devices):
    grid = Mesh(np.array(jax.devices()[:devices]), ("data",))
    return NamedSharding(grid, PartitionSpec(None, "data"))


def _batches(dataset, count=0, shape=(2, 4), devices=1):
    return stream.Batches(dataset, 3, shape, _sharding(devices), count)


def _read(batches, n):
    return [(np.asarray(x), np.asarray(y)) for x, y in islice(batches, n)]


@pytest.mark.parametrize("threads", [0, 3])
def test_the_stream_has_the_order_of_the_seed_and_begins_at_any_count(threads):
    with closing(_batches(_numbers(threads=threads))) as found:
        whole = _read(found, 12)
    for count, (inputs, labels) in enumerate(whole):
        assert inputs.shape == (2, 4, 1) and labels.shape == (2, 4)
        np.testing.assert_array_equal(labels.ravel(), data.indices(37, 8, 3, count))
    with closing(_batches(_numbers(threads=threads), count=7)) as found:
        for later, expected in zip(_read(found, 5), whole[7:], strict=True):
            np.testing.assert_array_equal(later[0], expected[0])


@pytest.mark.parametrize("threads", [0, 3])
def test_the_rest_of_a_stream_is_the_same_after_any_number_of_batches(threads):
    with closing(_batches(_numbers(threads=threads))) as found:
        _read(found, 6)  # 48 of 37 examples: in mid-epoch
        rest = _read(found, 5)
    with closing(_batches(_numbers(threads=threads), count=6)) as found:
        for again, expected in zip(_read(found, 5), rest, strict=True):
            np.testing.assert_array_equal(again[0], expected[0])


def test_two_processes_read_disjoint_halves_of_the_batch_of_one():
    if jax.local_device_count() < 8:
        pytest.skip("needs eight devices")
    dataset, shape = _numbers(), (2, 8)
    held = _sharding(8).devices_indices_map(shape)
    processes = jax.devices()[:4], jax.devices()[4:8]
    rows = [stream.places([held[d] for d in devices], shape)[1] for devices in processes]
    assert sorted(np.concatenate(rows)) == list(range(16))
    everything = stream.Source(dataset, 3, 16, np.arange(16))
    halves = [stream.Source(dataset, 3, 16, own) for own in rows]
    for count in range(6):
        inputs, labels = everything.batch(count)
        for own, half in zip(rows, halves, strict=True):
            # The same examples at the same places, augmented alike.
            np.testing.assert_array_equal(half.batch(count)[0], inputs[own])
            np.testing.assert_array_equal(half.batch(count)[1], labels[own])


def test_devices_hold_their_share_of_the_batch_of_one():
    if jax.local_device_count() < 8:
        pytest.skip("needs eight devices")
    dataset = _numbers()
    with closing(_batches(dataset, shape=(2, 8))) as one:
        expected = _read(one, 4)
    with closing(_batches(dataset, shape=(2, 8), devices=8)) as eight:
        for (inputs, _), (whole, _) in zip(islice(eight, 4), expected, strict=True):
            assert inputs.sharding.is_equivalent_to(_sharding(8), 3)
            assert {x.data.shape for x in inputs.addressable_shards} == {(2, 1, 1)}
            np.testing.assert_array_equal(inputs, whole)


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_sees_every_test_example_once_and_in_order(threads):
    found = list(stream.testing(_numbers(threads=threads)))
    assert [len(x) for x, _ in found] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), np.arange(11))


def test_an_example_that_cannot_be_read_stops_the_run():
    class Broken(Numbers):
        def take(self, chosen, chance=None):
            raise OSError("this file is broken")

    dataset = data.Dataset(Broken(9), Broken(9), (1,), 9, threads=2)
    with closing(_batches(dataset)) as found, pytest.raises(OSError, match="this file is broken"):
        next(found)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("count", [0, 7])
def test_several_batches_at_once_are_those_that_follow_each_other(devices, count):
    if jax.local_device_count() < devices:
        pytest.skip("needs four devices")
    dataset, shape = _numbers(), (2, 8)
    with closing(_batches(dataset, shape=shape)) as one:
        expected = [next(one) for _ in range(20)][count:]
    found, sharding = [], _sharding(devices)
    with closing(stream.Batches(dataset, 3, shape, sharding, count, most=4)) as several:
        for n in (4, 1, 3, 0, 2):
            if n == 0:
                found.append(next(several))
                continue
            inputs, labels = several.take(n)
            assert inputs.shape[:3] == (4, *shape) and labels.shape == (4, *shape)
            if devices > 1:
                assert inputs.sharding.shard_shape(inputs.shape)[:3] == (4, 2, 8 // devices)
            found += zip(inputs[:n], labels[:n], strict=True)
    assert len(found) == 11
    for (a, b), (c, d) in zip(found, expected, strict=False):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
