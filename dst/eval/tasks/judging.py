"""A model's figure on a task, beside that of the dense model that it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flax import nnx

from dst.eval.intervals import bootstrap
from dst.eval.tasks.task import Progress, Task


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval.

    Attributes:
      value: NaN where there is none, as of a correlation with equal values.
      low: lower end of the interval.
      high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What a task says of a model.

    Attributes:
      task: its name.
      measure: what the figures are: ``accuracy``, ``exact match``, ``recall@1``, ``Spearman``.
      items: their number.
      chance: the expected figure of guesses; None where it is not known.
      model: the model's figure. Shares have Wilson's interval, correlations one by the bootstrap.
      against: the same of the dense model; None without one.
      difference: model minus dense model, with the interval of the *paired* bootstrap over items.
    """

    task: str
    measure: str
    items: int
    chance: float | None
    model: Figure
    against: Figure | None = None
    difference: Figure | None = None


def judge(
    task: Task,
    model: nnx.Module,
    tokenizer: Any,
    *,
    against: nnx.Module | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Judges a model by a task, alone or beside a dense model.

    Args:
      task: of :func:`find` or :func:`read`, or of your own.
      model: a language model or an encoder, as the task asks for.
      tokenizer: of :func:`dst.models.tokenizer`.
      against: a dense model with the same vocabulary.
      resamples: of the paired bootstrap.
      seed: of the resamples, >= 0.
      progress: called as ``progress(done, count)`` after every batch of a model.

    Raises:
      ValueError: a model of another kind; an item longer than its context; tokens that it does not
        have.

    Example:
      >>> judge(find("recall"), model, words, against=dense).difference  # doctest: +SKIP
      Figure(value=-0.12, low=-0.175, high=-0.065)

    References: Koehn 2004, Statistical significance tests for machine translation evaluation.
    Checked against: NumPy, and exact zeros for a model against itself:
      tests/eval/tasks/test_judging.py.
    """
    models = [model] if against is None else [model, against]
    prepared = task.prepare(tokenizer, models)
    outcomes = [task.outcomes(x, prepared, progress) for x in models]
    all_of_them = np.ones((1, len(task)), np.int64)
    values = [float(task.figure(x, all_of_them)[0]) for x in outcomes]
    figures = [
        Figure(value, *task.interval(x, seed)) for value, x in zip(values, outcomes, strict=True)
    ]
    found = Result(task.name, task.measure, len(task), task.chance, figures[0])
    if against is None:
        return found
    ends = bootstrap(
        lambda counts: task.figure(outcomes[0], counts) - task.figure(outcomes[1], counts),
        len(task),
        resamples=resamples,
        seed=seed,
    )
    difference = Figure(values[0] - values[1], *ends)
    return replace(found, against=figures[1], difference=difference)
