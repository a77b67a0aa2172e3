"""A sequence of tasks, made from one data set: its classes are split, or its inputs permuted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dst.core import checks
from dst.train import data
from dst.train.config.run import DATA
from dst.train.data.dataset import Batch, Dataset, Split

_AT_ONCE = 1024  # examples whose labels are read together

Scenario = Literal["task", "class", "domain"]


@dataclass(frozen=True)
class Subset:
    """Some examples of a split.

    Attributes:
      split: that has them.
      chosen: which, int ``[n]``.
    """

    split: Split
    chosen: np.ndarray

    @property
    def chances(self) -> int:
        """As of the split."""
        return self.split.chances

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """The examples of these indices."""
        return self.split.take(self.chosen[chosen], chance)


@dataclass(frozen=True)
class Permuted:
    """The examples of a split, with the numbers of every input in another order.

    Attributes:
      split: that has them.
      order: where each number comes from, int ``[numbers of an input]``.
    """

    split: Split
    order: np.ndarray

    @property
    def chances(self) -> int:
        """As of the split."""
        return self.split.chances

    def __len__(self) -> int:
        return len(self.split)

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """The examples of these indices."""
        inputs, labels = self.split.take(chosen, chance)
        return inputs.reshape(len(inputs), -1)[:, self.order].reshape(inputs.shape), labels


def classes_of(classes: int, tasks: int, number: int) -> tuple[int, ...]:
    """The classes of a task, where classes are split; in order, the first tasks have one more.

    Args:
      classes: of the data set.
      tasks: how many there are.
      number: of the task, from 1.

    Raises:
      ValueError: a task would have fewer than two classes.

    Example:
      >>> [classes_of(10, 3, i) for i in (1, 2, 3)]
      [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]
    """
    if 2 * tasks > classes:
        raise ValueError(
            f"continual.tasks must be at most {classes // 2}, so that every task has two of the "
            f"{classes} classes, got {tasks}."
        )
    return tuple(map(int, np.array_split(np.arange(classes), tasks)[number - 1]))


def task(
    *, of: Mapping[str, Any], number: int, tasks: int, scenario: Scenario, seed: int
) -> Dataset:
    """One task of a sequence: a data set for ``data: {import: dst.studies.continual.tasks:task}``.

    Args:
      of: the section ``data`` of the whole data set.
      number: of the task, from 1.
      tasks: how many there are.
      scenario: ``"task"`` and ``"class"`` split the classes; labels stay what they are.
        ``"domain"`` permutes the numbers of every input, by one permutation per task; the first
        task has them as they are.
      seed: of the permutations.

    Raises:
      ValueError: labels that are no single classes, too many tasks, or a task without examples.

    Example:
      >>> second = task(of={"name": "digits"}, number=2, tasks=5, scenario="class", seed=0)
      >>> sorted(set(second.test.take(np.arange(len(second.test)))[1].tolist()))
      [2, 3]

    References: van de Ven and Tolias 2019, "Three scenarios for continual learning"
    (arXiv 1904.07734).
    """
    checks.integer("number", number, at_least=1, at_most=tasks)
    whole = data.load(DATA.read(dict(of), "of"))
    _, labels = whole.test.take(np.arange(1))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"continual learning needs one class per example, and labels of this data set are "
            f"{labels.dtype} of shape {list(labels.shape[1:])} each. Choose another data set."
        )
    if scenario == "domain":
        size = int(np.prod(whole.shape))
        order = np.arange(size)
        if number > 1:
            order = np.random.default_rng([seed, number]).permutation(size)
        train, test = Permuted(whole.train, order), Permuted(whole.test, order)
        return replace(whole, train=train, test=test, identity={})
    own = classes_of(whole.classes, tasks, number)
    parts = {name: _with_labels(getattr(whole, name), own) for name in ("train", "test")}
    for name, part in parts.items():
        if not len(part):
            raise ValueError(f"no example in the {name} split is of the classes {list(own)}.")
    return replace(whole, train=parts["train"], test=parts["test"], identity={})


def _with_labels(split: Split, classes: tuple[int, ...]) -> Subset:
    labels = getattr(split, "labels", None)
    if labels is None:
        starts = range(0, len(split), _AT_ONCE)
        ranges = (np.arange(i, min(i + _AT_ONCE, len(split))) for i in starts)
        labels = np.concatenate([split.take(r)[1] for r in ranges])
    return Subset(split, np.flatnonzero(np.isin(labels, classes)))
