"""Exact recall: whether a language model continues a prompt word for word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flax import nnx

from dst.core import checks
from dst.eval.likelihood import Request, likelihoods
from dst.eval.tasks import task
from dst.eval.tasks.choices import requests, text


@dataclass(frozen=True)
class Continuation:
    """A prompt and the one text that is to follow it.

    Attributes:
      prompt: at least one character.
      continuation: at least one character, with the space in front of it.

    Raises:
      ValueError: a value that does not fit, naming it.
    """

    prompt: str
    continuation: str

    def __post_init__(self) -> None:
        text("prompt", self.prompt)
        text("continuation", self.continuation)


@dataclass(frozen=True)
class Continuations:
    """The share of items whose greedy continuation is the expected one, token for token.

    Attributes:
      name: in tables.
      items: at least one :class:`Continuation`.

    Raises:
      ValueError: no items.

    Example:
      >>> len(Continuations("sums", (Continuation("1 + 1 =", " 2"),)))
      1

    Checked against: :func:`dst.eval.generate`, tests/eval/tasks/test_continuations.py.
    """

    measure: ClassVar[str] = "exact match"
    judges: ClassVar[str] = "decoder"

    name: str
    items: tuple[Continuation, ...]

    def __post_init__(self) -> None:
        checks.not_empty("items", self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def chance(self) -> None:
        """Not known: it depends on the texts."""
        return None

    def prepare(self, tokenizer: Any, models: Sequence[nnx.Module]) -> list[Request]:
        """The tokens of each prompt and of its continuation.

        Raises:
          ValueError: an item longer than the context; tokens that a model does not have.
        """
        endings = [(x.continuation,) for x in self.items]
        return requests(self.name, [x.prompt for x in self.items], endings, tokenizer, models)

    def outcomes(
        self, model: nnx.Module, prepared: list[Request], progress: task.Progress | None = None
    ) -> task.Outcomes:
        """1 for an item that is continued as expected, else 0."""
        found = likelihoods(model, prepared, progress=progress)
        return np.array([float(greedy) for _, greedy in found])

    figure = staticmethod(task.mean)

    def interval(self, outcomes: task.Outcomes, seed: int) -> tuple[float, float]:
        """Wilson's interval."""
        return task.of_share(outcomes)
