"""What every data set is: examples by index, and the order in which training reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

Batch = tuple[np.ndarray, np.ndarray]  # inputs and labels, with a leading axis of examples


@runtime_checkable
class Split(Protocol):
    """Examples that are numbered.

    Attributes:
      chances: how many random numbers an example takes to be augmented; 0: nothing is augmented.
    """

    @property
    def chances(self) -> int: ...

    def __len__(self) -> int:
        """How many there are."""

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """The examples of these indices, int ``[n]``; safe in many threads.

        Args:
          chosen: which.
          chance: float64 ``[n, chances]`` in [0, 1), by which each is augmented; None: none is.
        """


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    Attributes:
      images: float32 ``[n, height, width, channels]``; over the training images, pixels have
        mean 0 and standard deviation 1.
      labels: int32 ``[n]``.
    """

    images: np.ndarray
    labels: np.ndarray
    chances: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """Images and their classes."""
        return self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class Windows:
    """Pieces of one long text, and the byte or token that follows each of theirs.

    Attributes:
      text: uint8 ``[length]`` of bytes, int32 of tokens.
      starts: int ``[n]``: where each piece begins.
      context: bytes or tokens per piece.
    """

    text: np.ndarray
    starts: np.ndarray
    context: int
    chances: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """Int32 ``[n, context]``, and the same one place further on."""
        places = self.starts[chosen][:, None] + np.arange(self.context + 1)[None]
        pieces = self.text[places].astype(np.int32)
        return pieces[:, :-1], pieces[:, 1:]

    def spread(self, n: int) -> Windows:
        """``n`` of the pieces, or all of fewer, evenly spread."""
        chosen = np.linspace(0, len(self) - 1, min(n, len(self))).astype(int)
        return replace(self, starts=self.starts[chosen])


def windows(text: np.ndarray, context: int) -> Windows:
    """All pieces of a text, side by side: each byte or token but the first is predicted once,
    except fewer than ``context`` at the end."""
    return Windows(text, np.arange(max((len(text) - 1) // context, 0)) * context, context)


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
      train, test: splits without common examples.
      shape: of one input.
      classes: number of outputs that are asked of a network: classes, or targets.
      objective: the name of what is asked of a network, where its config does not say.
      dtype: of the inputs.
      at_once: test examples that are evaluated together, so that memory is bounded.
      threads: that read ahead, a batch each; 0 where all examples are in memory.
      identity: fields of the config's data section that pin what a run was trained on, where that
        depends on the machine.
      units: of labels: by what the targets of regression were divided, a number each; or how many
        bytes a token has on average. None: by nothing, and one.
    """

    train: Split
    test: Split
    shape: tuple[int, ...]
    classes: int
    objective: str = "classification"
    dtype: Any = np.float32
    at_once: int = 1024
    threads: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)
    units: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Sourced:
    """Examples of a source with random access, such as Grain reads.

    Attributes:
      source: has a length; ``source[i]`` is a pair of an input and its label.
    """

    source: Any
    chances: int = 0

    def __len__(self) -> int:
        return len(self.source)

    def take(self, chosen: np.ndarray, chance: np.ndarray | None = None) -> Batch:
        """Inputs and labels, as the source has them."""
        inputs, labels = zip(*(self.source[int(i)] for i in chosen), strict=True)
        return np.stack(inputs), np.stack(labels)


Pair = tuple[np.ndarray, np.ndarray]


def from_arrays(
    train: Pair, test: Pair, *, classes: int | None = None, objective: str | None = None
) -> Dataset:
    """A data set of arrays in memory.

    Args:
      train, test: inputs ``[n, ...]`` and labels ``[n, ...]``, of equal shapes and types.
      classes: number of outputs; None: one more than the largest label of integers, of others the
        length of their last axis.
      objective: what is asked of a network, where the config does not say; None: regression of
        floats, classification of integers, multi-label of booleans ``[n, classes]``.

    Raises:
      ValueError: splits that are empty, of different lengths, shapes or types.
    """
    for name, (inputs, labels) in (("train", train), ("test", test)):
        if len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"{name} must have as many inputs as labels, and one at least, got {len(inputs)} "
                f"and {len(labels)}."
            )
    (inputs, labels), (others, _) = train, test
    if inputs.shape[1:] != others.shape[1:] or inputs.dtype != others.dtype:
        raise ValueError(
            f"train and test must be alike: got inputs {inputs.dtype} {inputs.shape[1:]} and "
            f"{others.dtype} {others.shape[1:]}."
        )
    if objective is None:
        objective = _OBJECTIVES.get(labels.dtype.kind, "classification")
    several = objective in _OBJECTIVES.values()
    return Dataset(
        Images(*train),
        Images(*test),
        shape=inputs.shape[1:],
        classes=_classes([train[1], test[1]], several) if classes is None else classes,
        objective=objective,
        dtype=inputs.dtype,
    )


def from_sources(
    train: Any, test: Any, *, classes: int, objective: str = "classification", threads: int = 4
) -> Dataset:
    """A data set of two sources with random access; see :class:`Sourced`.

    Args:
      train, test: with a length; ``source[i]`` is a pair of an input and its label.
      classes: number of different labels.
      objective: what is asked of a network, where the config does not say.
      threads: that read ahead.
    """
    example = np.asarray(train[0][0])
    return Dataset(
        Sourced(train),
        Sourced(test),
        shape=example.shape,
        classes=classes,
        objective=objective,
        dtype=example.dtype,
        threads=threads,
    )


_OBJECTIVES = {"f": "regression", "b": "multi-label"}


def _classes(labels: list[np.ndarray], several: bool) -> int:
    if not several and all(np.issubdtype(x.dtype, np.integer) for x in labels):
        return 1 + max(int(x.max()) for x in labels)
    return labels[0].shape[-1] if labels[0].ndim > 1 else 1


def indices(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """Which of ``n`` training examples make up the batch of a step; a pure function.

    Epochs follow each other without a gap: each is a new shuffle of all training examples, and a
    batch that reaches the end of one goes on in the next.

    Args:
      n: number of training examples.
      size: examples per batch.
      seed: of the shuffles.
      step: optimizer updates done before.
    """
    epoch, first = divmod(step * size, n)
    parts = [_shuffle(n, seed, epoch)[first : first + size]]
    while (missing := size - sum(map(len, parts))) > 0:
        epoch += 1
        parts.append(_shuffle(n, seed, epoch)[:missing])
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


@lru_cache(maxsize=4)
def _shuffle(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)
