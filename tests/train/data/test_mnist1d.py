"""Laws of MNIST-1D: equal to its authors' package, whatever other random numbers were drawn."""

from __future__ import annotations

import random
from contextlib import contextmanager

import mnist1d
import numpy as np
import pytest
from mnist1d.data import make_dataset

from dst.train.data import mnist1d as ours
from dst.train.data.mnist1d import Mnist1d


@contextmanager
def global_generators_kept():
    """The package seeds the generators of Python and NumPy."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def test_examples_and_their_order_are_those_of_the_package_to_the_last_bit():
    with global_generators_kept():
        theirs = make_dataset(mnist1d.get_dataset_args())
    found = ours.generated()
    np.testing.assert_array_equal(found[0], np.concatenate([theirs["x"], theirs["x_test"]]))
    np.testing.assert_array_equal(found[1], np.concatenate([theirs["y"], theirs["y_test"]]))
    dataset = Mnist1d().load("mnist1d")
    for split, part in ((dataset.train, ""), (dataset.test, "_test")):
        expected = theirs[f"x{part}"][..., None].astype(np.float32)
        np.testing.assert_array_equal(split.images, expected)
        np.testing.assert_array_equal(split.labels, theirs[f"y{part}"])
    assert (len(dataset.train), len(dataset.test)) == (4000, 1000)
    assert (dataset.shape, dataset.classes) == ((40, 1), 10)


def test_no_other_random_number_changes_them_and_they_change_none():
    first = ours.generated()[0].copy()
    with global_generators_kept():
        np.random.seed(7)  # noqa: NPY002
        random.seed(7)
        before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        ours.generated.cache_clear()
        again = ours.generated()[0]
        np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
        assert before[1] == random.getstate()
    np.testing.assert_array_equal(first, again)


def test_validation_examples_are_training_examples_that_are_not_trained_on():
    whole, tuning = Mnist1d().load("mnist1d"), Mnist1d(validation=0.2).load("mnist1d")
    assert (len(tuning.train), len(tuning.test)) == (3200, 800)

    def rows(split):
        return {x.tobytes() for x in split.images}

    assert not rows(tuning.train) & rows(tuning.test)
    assert rows(tuning.train) | rows(tuning.test) == rows(whole.train)
    assert not rows(whole.train) & rows(whole.test)
    of_training = np.bincount(whole.train.labels)
    shares = np.bincount(tuning.test.labels) / of_training
    assert abs(shares - 0.2).max() <= 0.5 / of_training.min()  # of every class, to one example
    assert tuning.test is Mnist1d(validation=0.2).load("mnist1d").test


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan"), True, "0.2"])
def test_a_validation_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(ValueError, match=r"validation must be a fraction in \(0, 1\)"):
        Mnist1d(validation=share)
