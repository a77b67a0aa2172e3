"""Tasks are parts of one data set: no example is lost or altered but by its permutation."""

from __future__ import annotations

import numpy as np
import pytest

from dst.studies.continual.tasks import classes_of
from dst.studies.continual.tasks import task as made
from dst.train import data
from dst.train.config.run import DATA

DIGITS = {"name": "digits"}
WHOLE = data.load(DATA.read(DIGITS, "data"))


def everything(split):
    return split.take(np.arange(len(split)))


def task(number, tasks=5, scenario="class", **options):
    given = {"of": DIGITS, "seed": 0, "number": number, "tasks": tasks, "scenario": scenario}
    return made(**given | options)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_split_by_classes_gives_every_example_to_one_task(name):
    inputs, labels = everything(getattr(WHOLE, name))
    total = 0
    for number in range(1, 6):
        some, classes = everything(getattr(task(number), name))
        wanted = np.isin(labels, (2 * number - 2, 2 * number - 1))
        np.testing.assert_array_equal(some, inputs[wanted])
        np.testing.assert_array_equal(classes, labels[wanted])
        total += len(classes)
    assert total == len(labels)


def test_permuted_inputs_are_one_permutation_per_task():
    inputs, labels = everything(WHOLE.test)
    first, second, third, other = (
        everything(task(i, 3, "domain", seed=seed).test)
        for i, seed in ((1, 0), (2, 0), (3, 0), (2, 1))
    )
    np.testing.assert_array_equal(first[0], inputs)
    for permuted, classes in (second, third, other):
        np.testing.assert_array_equal(classes, labels)
        assert permuted.shape == inputs.shape
        a, b = (np.sort(x.reshape(len(x), -1)) for x in (permuted, inputs))
        np.testing.assert_array_equal(a, b)
    assert len({x[0].tobytes() for x in (first, second, third, other)}) == 4
    # One and the same for all examples: columns are moved as a whole.
    columns = {x.tobytes() for x in inputs.reshape(len(inputs), -1).T}
    assert {x.tobytes() for x in second[0].reshape(len(inputs), -1).T} == columns


def test_classes_are_dealt_in_order_and_as_evenly_as_they_can_be():
    assert [classes_of(7, 3, i) for i in (1, 2, 3)] == [(0, 1, 2), (3, 4), (5, 6)]
    with pytest.raises(ValueError, match=r"tasks must be at most 5, .* got 6"):
        classes_of(10, 6, 1)


def test_sources_without_labels_in_memory_are_split_too(monkeypatch):
    source = [(np.full(3, i, np.float32), np.int32(i % 4)) for i in range(40)]
    found = data.from_sources(source, source[:8], classes=4)
    monkeypatch.setattr(data, "load", lambda section: found)
    inputs, labels = everything(task(2, 2).train)
    assert labels.tolist() == [i % 4 for i in range(40) if i % 4 > 1]
    assert inputs[:, 0].tolist() == [i for i in range(40) if i % 4 > 1]


def test_labels_that_are_no_single_classes_are_refused(monkeypatch):
    x = np.zeros((6, 2), np.float32)
    found = data.from_arrays((x, x), (x, x))
    monkeypatch.setattr(data, "load", lambda section: found)
    with pytest.raises(ValueError, match="one class per example, and labels .* are float32"):
        task(1, 2)
