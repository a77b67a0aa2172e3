"""Examples with labels from files: what their configs share, and how a data set is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dst.core import checks
from dst.train.data import augment, labels, splits, statistics
from dst.train.data.dataset import Dataset, Images, Pair
from dst.train.data.examples import Arrays, Examples, at_once


@dataclass(frozen=True)
class Labelled:
    """What every config of labelled examples may say.

    Attributes:
      batch_size: examples per optimizer update, over all micro-batches and devices.
      test: fraction of the examples that is held out, in (0, 1), the same of every class; null:
        the split that the data have, or else 0.2.
      seed: of the choice of these examples.
      classes: names of the classes, in the order of the network's outputs; null: those of the
        labels, sorted. The saved config has them.
      normalise: whether the mean of the training split is subtracted from inputs, which are then
        divided by its standard deviation; for regression that of the targets, too.
      mean: per channel (last axis) of the inputs; of 8-bit numbers as numbers in [0, 1]. Null: that
        of the training split. The saved config has it.
      std: per channel, by which inputs are divided then; null: likewise.
      sha256: of the data; a run on data that have another one is refused. Null: any. The saved
        config has it.
    """

    batch_size: int = 128
    test: float | None = None
    seed: int = 0
    classes: tuple[str, ...] | None = None
    normalise: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, at_least=1)
        checks.integer("seed", self.seed, at_least=0)
        splits.check("test", self.test)
        statistics.check_given(self.mean, self.std)
        if self.mean is not None and not self.normalise:
            raise ValueError("mean must be null where normalise is false, got numbers.")


@dataclass(frozen=True)
class WithTargets(Labelled):
    """The same where labels may be quantities.

    Attributes:
      target_mean: per target of regression, in its unit; null: that of the training split. The
        saved config has it.
      target_std: per target, by which targets are divided then; null: likewise.
    """

    target_mean: tuple[float, ...] | None = None
    target_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        statistics.check_given(self.target_mean, self.target_std, "target_")


def dataset(
    parts: Sequence[Pair],
    settings: WithTargets,
    kind: str | None,
    where: str,
    names: Sequence[str] = (),
    as_they_are: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """A data set of arrays.

    Args:
      parts: inputs ``[n, ...]`` and raw labels of the file, or of its two splits.
      settings: how they are split and normalised.
      kind: of labels, as the objective of the config needs them; None: as they are.
      where: the file, for messages.
      names: of the columns of labels.
      as_they_are: bool ``[channels]``: inputs that are not normalised; None: all are.
      classes: names in the order of the outputs, where the config has none; None: sorted.

    Raises:
      ValueError: no examples, different lengths or shapes, numbers that are not finite, labels that
        do not fit, a class in one split only.
    """
    _check_parts(parts, where)
    found = labels.encoded(
        np.concatenate([y for _, y in parts]), kind, where, names, settings.classes or classes
    )
    train, test = chosen(parts, found, settings, where)
    labels.check_both(found, train, test, where)
    if len(parts) == 1:
        inputs = [parts[0][0][i] for i in (train, test)]
    else:
        inputs = [x for x, _ in parts]

    mean, std = inputs_moments(inputs[0], settings, as_they_are)
    values, target = targets(found, train, settings)
    pairs = zip(inputs, (values[i] for i in (train, test)), strict=True)
    examples = [_split(x, y, mean, std) for x, y in pairs]
    shape = inputs[0].shape[1:]
    return Dataset(
        train=examples[0],
        test=examples[1],
        shape=shape,
        classes=found.outputs,
        objective=labels.OBJECTIVES[found.kind],
        at_once=at_once(shape),
        units=target.get("target_std"),
        identity={
            **({"mean": mean, "std": std} if settings.normalise else {}),
            **({"classes": found.names} if found.kind == "class" else {}),
            **target,
        },
    )


def numbers(x: np.ndarray, where: str) -> np.ndarray:
    """Inputs with an axis of channels: images of 8 bits without one get it, and single numbers.

    Args:
      x: ``[n, ...]``.
      where: what holds them, for messages.

    Raises:
      ValueError: no numbers, or some that are not finite.
    """
    if x.dtype.kind not in "iubf" or not x.ndim:
        raise ValueError(
            f"data.inputs: {where} must hold numbers, one row for each "
            f"example, found {x.dtype} {list(x.shape)}."
        )
    if x.dtype.kind == "f":
        for i in range(0, len(x), 1024):  # in parts: what np.isfinite makes is as large
            if not (finite := np.isfinite(x[i : i + 1024])).all():
                row = np.argwhere(~finite)[0]
                raise ValueError(
                    f"data.inputs: {where} has {x[i:][tuple(row)]} in example "
                    f"{i + row[0]}. Leave such examples out, or fill in numbers."
                )
    images = x.dtype == np.uint8 and x.ndim == 3
    return x[..., None] if images or x.ndim == 1 else x


def chosen(
    parts: Sequence[Any], found: labels.Labels, settings: Labelled, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the training and of the test examples among all.

    Raises:
      ValueError: a fraction to hold out of data that are split already.
    """
    if len(parts) == 1:
        return splits.by_fraction(found, settings.test, settings.seed, where)
    if settings.test is not None:
        raise ValueError(
            f"data.test must be null, since {where} has test examples of its own, got "
            f"{settings.test}."
        )
    every = np.arange(len(found.values))
    first = len(parts[0][1])
    return every[:first], every[first:]


def inputs_moments(
    train: np.ndarray, settings: Labelled, as_they_are: np.ndarray | None
) -> tuple[statistics.Numbers, statistics.Numbers]:
    """By what inputs are normalised, in units of numbers in [0, 1] where they have 8 bits."""
    channels = train.shape[-1]
    if not settings.normalise:
        return (0.0,) * channels, (1.0,) * channels
    mean, std = settings.mean, settings.std
    if mean is None or std is None:
        found = statistics.moments(train, 255.0 if train.dtype == np.uint8 else 1.0)
        if as_they_are is not None:
            kept = [np.where(as_they_are, x, y) for x, y in zip((0.0, 1.0), found, strict=True)]
            found = tuple(kept[0].tolist()), tuple(kept[1].tolist())
        return found
    statistics.check_length(mean, std, channels, str(train.shape[1:]))
    return mean, std


def targets(
    found: labels.Labels, train: np.ndarray, settings: WithTargets
) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels as a network learns them, and by what they were normalised."""
    mean, std = settings.target_mean, settings.target_std
    if found.kind != "number":
        if mean is not None:
            raise ValueError(
                f"data.target_mean must be null for the objective "
                f"{labels.OBJECTIVES[found.kind]}, got {list(mean)}."
            )
        return found.values, {}
    if not settings.normalise:
        return found.values.astype(np.float32), {}
    if mean is None or std is None:
        mean, std = statistics.moments(found.values[train])
    if not len(mean) == len(std) == found.outputs:
        raise ValueError(
            f"data.target_mean and data.target_std must have {found.outputs} numbers, one for each "
            f"target, got {len(mean)} and {len(std)}."
        )
    values = statistics.standardised(found.values, mean, std)
    return values, {"target_mean": mean, "target_std": std}


def _split(
    inputs: np.ndarray, values: np.ndarray, mean: statistics.Numbers, std: statistics.Numbers
) -> Any:
    if inputs.dtype == np.uint8:  # four times smaller than float32: normalised where it is read
        moments = np.array(mean) * 255, np.array(std) * 255
        return Examples(Arrays(inputs, values), augment.AUGMENTATIONS["none"], *moments)
    return Images(statistics.standardised(inputs, mean, std), values)


def _check_parts(parts: Sequence[Pair], where: str) -> None:
    for inputs, raw in parts:
        if len(inputs) != len(raw) or not len(inputs):
            raise ValueError(
                f"data: {where} must have as many inputs as labels, and one at least, found "
                f"{len(inputs)} inputs and {len(raw)} labels."
            )
    shapes = {(x.shape[1:], str(x.dtype)) for x, _ in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"data: training and test inputs of {where} must be alike, found "
            f"{' and '.join(f'{dtype} {list(shape)}' for shape, dtype in sorted(shapes))}."
        )
