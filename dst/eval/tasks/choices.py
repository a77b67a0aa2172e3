"""Multiple choice: which of the choices a language model finds the most likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flax import nnx

from dst.core import checks
from dst.eval.likelihood import Request, divided, likelihoods
from dst.eval.tasks import task


@dataclass(frozen=True)
class Choice:
    """A prompt and what may follow it.

    Attributes:
      prompt: at least one character.
      choices: at least two different texts, each with the space in front of it.
      answer: the index of the right one.

    Raises:
      ValueError: a value that does not fit, naming it.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        text("prompt", self.prompt)
        if not isinstance(self.choices, tuple) or len(self.choices) < 2:
            raise ValueError(f"choices must be at least two texts, got {self.choices!r:.80}.")
        for number, choice in enumerate(self.choices):
            text(f"choices[{number}]", choice)
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices must differ from each other, got {self.choices!r:.80}.")
        checks.integer("answer", self.answer, at_least=0, at_most=len(self.choices) - 1)


def text(name: str, value: Any) -> None:
    """Raises unless a value is a text of at least one character that UTF-8 can hold."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a text of at least one character, got {value!r:.80}.")
    if any("\ud800" <= x <= "\udfff" for x in value):
        raise ValueError(f"{name} must be a text, found half of a pair of surrogates in it.")


@dataclass(frozen=True)
class MultipleChoice:
    """The share of items whose right choice has the largest ``log p(choice | prompt)``.

    If ``m`` choices share the largest one, the right one among them counts ``1 / m``. A model that
    finds all choices equally likely is at chance. One whose likelihoods are NaN is never right.

    Attributes:
      name: in tables.
      items: at least one :class:`Choice`.
      normalize: what the log-probability of a choice is divided by: its number of ``tokens``
        (arXiv 2005.14165), its ``bytes``, or ``nothing``. Long choices gain by it.

    Raises:
      ValueError: no items; another word for ``normalize``.

    Example:
      >>> task = MultipleChoice("sums", (Choice("1 + 1 =", (" 2", " 3"), 0),))
      >>> len(task), task.chance
      (1, 0.5)

    References: Brown et al. 2020 (arXiv 2005.14165).
    Checked against: sums of log-probabilities in NumPy, and chance for models that know nothing:
      tests/eval/tasks/test_choices.py.
    """

    measure: ClassVar[str] = "accuracy"
    judges: ClassVar[str] = "decoder"

    name: str
    items: tuple[Choice, ...]
    normalize: str = "nothing"

    def __post_init__(self) -> None:
        checks.not_empty("items", self.items)
        checks.one_of("normalize", self.normalize, ("nothing", "tokens", "bytes"))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def chance(self) -> float:
        """The share that guesses get right."""
        return float(np.mean([1 / len(x.choices) for x in self.items]))

    def prepare(self, tokenizer: Any, models: Sequence[nnx.Module]) -> list[Request]:
        """The tokens of the prompt and of the choice, item by item and choice by choice.

        Raises:
          ValueError: an item longer than the context; tokens that a model does not have.
        """
        endings = [x.choices for x in self.items]
        return requests(self.name, [x.prompt for x in self.items], endings, tokenizer, models)

    def outcomes(
        self, model: nnx.Module, prepared: list[Request], progress: task.Progress | None = None
    ) -> task.Outcomes:
        """1 for an item whose right choice is the most likely one, ``1 / m`` for ties, else 0."""
        found = likelihoods(model, prepared, progress=progress)
        logs = iter(zip((x for x, _ in found), prepared, strict=True))
        outcomes = []
        for item in self.items:
            scores = []
            for choice in item.choices:
                log, (_, following) = next(logs)
                size = {"tokens": len(following), "bytes": len(choice.encode())}
                scores.append(log / size.get(self.normalize, 1))
            outcomes.append(_right(np.array(scores), item.answer))
        return np.array(outcomes)

    figure = staticmethod(task.mean)

    def interval(self, outcomes: task.Outcomes, seed: int) -> tuple[float, float]:
        """Wilson's interval."""
        return task.of_share(outcomes)


def _right(scores: np.ndarray, answer: int) -> float:
    best = scores == scores.max()  # nowhere, if one of them is NaN
    return float(best[answer]) / max(best.sum(), 1)


def requests(
    name: str,
    prompts: Sequence[str],
    endings: Sequence[Sequence[str]],
    tokenizer: Any,
    models: Sequence[nnx.Module],
) -> list[Request]:
    """The tokens of every prompt with each of its endings, for models that can read them.

    Raises:
      ValueError: an encoder; an item without tokens or longer than the context; tokens that a
        model does not have.
    """
    task.check_kind(name, "decoder", models)
    found: list[Request] = []
    lengths = []
    for number, (prompt, own) in enumerate(zip(prompts, endings, strict=True), 1):
        try:
            before, following = divided(tokenizer, prompt, own)
        except ValueError as error:
            raise ValueError(f"task {name}: item {number}: {error}") from error
        lengths.append(len(before) + max(map(len, following)))
        found += [(before, x) for x in following]
    task.check_lengths(name, lengths, models)
    task.check_tokens(max(max(*before, *following) for before, following in found), models)
    return found
