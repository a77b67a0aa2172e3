"""Pairs of sentences for encoders: retrieval of the second one, and rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flax import nnx

from dst.core import checks
from dst.core.text import shown
from dst.core.typing import Float
from dst.eval.correlation import spearman
from dst.eval.embeddings import embed
from dst.eval.intervals import bootstrap
from dst.eval.tasks import task
from dst.eval.tasks.choices import text


@dataclass(frozen=True)
class Pair:
    """Two sentences.

    Attributes:
      first: at least one character.
      second: at least one character.
      score: how similar people find them, any finite number; None: not known.

    Raises:
      ValueError: a value that does not fit, naming it.
    """

    first: str
    second: str
    score: float | None = None

    def __post_init__(self) -> None:
        text("first", self.first)
        text("second", self.second)
        if self.score is not None and not checks.is_number(self.score):
            raise ValueError(f"score must be a finite number, got {shown(self.score)}.")


@dataclass(frozen=True)
class Retrieval:
    """Recall@1: the share of first sentences whose nearest second sentence is their own.

    The nearest one has the largest cosine among the second sentences of all pairs. If ``m`` share
    it, the right one counts ``1 / m``. More pairs make it harder. Items share their candidates, so
    the interval is that of the queries, for these candidates.

    Attributes:
      name: in tables.
      items: at least two :class:`Pair`, without equal second sentences.

    Raises:
      ValueError: fewer items, or a second sentence that stands twice.

    Example:
      >>> Retrieval("mine", (Pair("a cat", "a kitten"), Pair("a dog", "a puppy"))).chance
      0.5

    Checked against: NumPy, one pair of sentences at a time, tests/eval/tasks/test_pairs.py.
    """

    measure: ClassVar[str] = "recall@1"
    judges: ClassVar[str] = "encoder"

    name: str
    items: tuple[Pair, ...]

    def __post_init__(self) -> None:
        checks.not_empty("items", self.items)
        if len(self.items) < 2:
            raise ValueError("items must be at least two pairs, got one.")
        seen: dict[str, int] = {}
        for number, pair in enumerate(self.items, 1):
            if pair.second in seen:
                raise ValueError(
                    f"items must have different second sentences, but item {number} has that of "
                    f"item {seen[pair.second]}. Give scores, or leave one of them out."
                )
            seen[pair.second] = number

    def __len__(self) -> int:
        return len(self.items)

    @property
    def chance(self) -> float:
        """The share that guesses get right. Untrained encoders are better: they compare tokens."""
        return 1 / len(self.items)

    def prepare(self, tokenizer: Any, models: Sequence[nnx.Module]) -> list[list[int]]:
        """The tokens of the first sentences, then those of the second ones.

        Raises:
          ValueError: a sentence longer than the context; tokens that a model does not have.
        """
        return _sentences(self.name, self.items, tokenizer, models)

    def outcomes(
        self, model: nnx.Module, prepared: list[list[int]], progress: task.Progress | None = None
    ) -> task.Outcomes:
        """1 for a pair that is found, ``1 / m`` for ties, else 0."""
        first, second = _embedded(model, prepared, progress)
        cosines = first @ second.T
        best = cosines == cosines.max(axis=1, keepdims=True)
        return np.diagonal(best) / np.maximum(best.sum(axis=1), 1)

    figure = staticmethod(task.mean)

    def interval(self, outcomes: task.Outcomes, seed: int) -> tuple[float, float]:
        """Wilson's interval."""
        return task.of_share(outcomes)


@dataclass(frozen=True)
class Similarity:
    """Spearman's rank correlation of cosines with the scores of pairs.

    Attributes:
      name: in tables.
      items: at least three :class:`Pair`, all with scores, not all of them equal.

    Raises:
      ValueError: fewer items, an item without a score, or equal scores.

    Example:
      >>> pairs = (Pair("a", "b", 0.0), Pair("a", "c", 1.0), Pair("a", "a", 5.0))
      >>> Similarity("mine", pairs).chance
      0.0

    References: the measure of Reimers and Gurevych 2019 (arXiv 1908.10084).
    Checked against: scipy.stats.spearmanr, tests/eval/tasks/test_pairs.py.
    """

    measure: ClassVar[str] = "Spearman"
    judges: ClassVar[str] = "encoder"

    name: str
    items: tuple[Pair, ...]

    def __post_init__(self) -> None:
        checks.not_empty("items", self.items)
        if len(self.items) < 3:
            raise ValueError(f"items must be at least three pairs, got {len(self.items)}.")
        for number, pair in enumerate(self.items, 1):
            if pair.score is None:
                raise ValueError(f"items must all have scores, but item {number} has none.")
        if len({x.score for x in self.items}) == 1:
            raise ValueError("items must have different scores, but all of them are equal.")

    def __len__(self) -> int:
        return len(self.items)

    @property
    def chance(self) -> float:
        """The correlation of guesses."""
        return 0.0

    def prepare(self, tokenizer: Any, models: Sequence[nnx.Module]) -> list[list[int]]:
        """The tokens of the first sentences, then those of the second ones.

        Raises:
          ValueError: a sentence longer than the context; tokens that a model does not have.
        """
        return _sentences(self.name, self.items, tokenizer, models)

    def outcomes(
        self, model: nnx.Module, prepared: list[list[int]], progress: task.Progress | None = None
    ) -> task.Outcomes:
        """The cosine of each pair."""
        first, second = _embedded(model, prepared, progress)
        return (first * second).sum(axis=1)

    def figure(self, outcomes: task.Outcomes, counts: task.Counts) -> np.ndarray:
        """The correlation of each resample."""
        scores = np.array([x.score for x in self.items], np.float64)
        return spearman(outcomes, scores, counts)

    def interval(self, outcomes: task.Outcomes, seed: int) -> tuple[float, float]:
        """By the bootstrap over pairs."""
        return bootstrap(lambda counts: self.figure(outcomes, counts), len(outcomes), seed=seed)


def _sentences(
    name: str, pairs: Sequence[Pair], tokenizer: Any, models: Sequence[nnx.Module]
) -> list[list[int]]:
    """Tokens, with those that the tokenizer puts around a sentence."""
    task.check_kind(name, "encoder", models)
    texts = [x.first for x in pairs] + [x.second for x in pairs]
    found = [x.ids for x in tokenizer.encode_batch(texts)]
    count = len(pairs)
    for number, tokens in enumerate(found):
        if not tokens:
            raise ValueError(
                f"task {name}: item {number % count + 1} has a sentence without a token."
            )
    longest = [max(map(len, x)) for x in zip(found[:count], found[count:], strict=True)]
    task.check_lengths(name, longest, models)
    largest = max(map(max, found))
    for model in models:
        size = model.embedding.embedding.shape[0]  # type: ignore[attr-defined]
        if largest >= size:
            raise ValueError(
                f"task {name}: tokens must be below {size}, the size of the vocabulary, found "
                f"{largest}. Is the tokenizer that of the model?"
            )
    return found


def _embedded(
    model: Any, tokens: list[list[int]], progress: task.Progress | None
) -> tuple[Float[np.ndarray, "items width"], Float[np.ndarray, "items width"]]:
    found = embed(model, tokens, progress=progress).astype(np.float64)
    return found[: len(found) // 2], found[len(found) // 2 :]
