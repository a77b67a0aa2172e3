"""What a task is, and what the tasks share whose figure is the mean over their items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from flax import nnx

from dst.core.typing import Int
from dst.eval.intervals import wilson
from dst.eval.language import check
from dst.models import Encoder

Progress = Callable[[int, int], object]
Outcomes = np.ndarray  # float64 [items], of one model
Counts = Int[np.ndarray, "resamples items"]


class Task(Protocol):
    """Items, what a model makes of each, and the figure that follows.

    Attributes:
      name: in tables.
      measure: what the figure is called: ``accuracy``, ``Spearman``.
      judges: ``decoder`` or ``encoder``.
    """

    @property
    def name(self) -> str: ...

    measure: ClassVar[str]
    judges: ClassVar[str]

    def __len__(self) -> int:
        """The number of items."""

    @property
    def chance(self) -> float | None:
        """The expected figure of guesses; None where it is not known."""

    def prepare(self, tokenizer: Any, models: Sequence[nnx.Module]) -> Any:
        """The tokens of all items, which :meth:`outcomes` reads.

        Raises:
          ValueError: an item that does not fit a model; it names both.
        """

    def outcomes(
        self, model: nnx.Module, prepared: Any, progress: Progress | None = None
    ) -> Outcomes:
        """What a model makes of each item, float64 ``[items]``."""

    def figure(self, outcomes: Outcomes, counts: Counts) -> np.ndarray:
        """The figure of each resample, ``[resamples]``, given how often it has each item."""

    def interval(self, outcomes: Outcomes, seed: int) -> tuple[float, float]:
        """The 95 % interval of the figure of all items."""


def mean(outcomes: Outcomes, counts: Counts) -> np.ndarray:
    """The mean over the items of each resample."""
    return counts @ outcomes / counts.sum(axis=1)


def of_share(outcomes: Outcomes) -> tuple[float, float]:
    """The interval of the mean of outcomes in [0, 1]."""
    return wilson(min(float(outcomes.mean()), 1.0), len(outcomes))


def check_kind(name: str, judges: str, models: Sequence[nnx.Module]) -> None:
    """Raises unless each model is of the kind that a task judges."""
    for model in models:
        kind = "encoder" if isinstance(model, Encoder) else "decoder"
        if kind != judges:
            raise ValueError(
                f"task {name} judges models of the kind {judges}, got the {kind} "
                f"{type(model).__name__}."
            )


def check_lengths(name: str, lengths: Sequence[int], models: Sequence[nnx.Module]) -> None:
    """Raises unless all items fit into the context of each model."""
    context = min(int(x.context) for x in models)  # type: ignore[attr-defined]
    for number, length in enumerate(lengths, 1):
        if length > context:
            raise ValueError(
                f"task {name}: item {number} has {length} tokens, but the context of the model has "
                f"{context}. Make the item shorter, or take another task."
            )


def check_tokens(largest: int, models: Sequence[nnx.Module]) -> None:
    """Raises unless language models of one vocabulary have all tokens up to one."""
    check(np.array([[0, largest]]), *models)
