"""Labels as files have them, and as an objective needs them: classes, numbers, sets of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What is asked of a network, by the kind of its labels.
OBJECTIVES = {"class": "classification", "number": "regression", "multi-label": "multi-label"}
_SOME = 20  # names of classes that a message shows


@dataclass(frozen=True)
class Labels:
    """Labels of all examples.

    Attributes:
      values: int32 ``[n]`` of classes; float32 ``[n, classes]`` of several classes each, 0 or 1;
        float64 ``[n, targets]`` of numbers, in their own units.
      kind: a key of ``OBJECTIVES``.
      names: of the classes; of numbers and of several classes as given.
    """

    values: np.ndarray
    kind: str
    names: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """How many outputs a network has."""
        return self.values.shape[1] if self.values.ndim > 1 else len(self.names)


def encoded(
    raw: np.ndarray,
    kind: str | None,
    where: str,
    names: Sequence[str] = (),
    classes: Sequence[str] | None = None,
) -> Labels:
    """The labels of a file.

    Args:
      raw: ``[n]`` or ``[n, k]``: integers, floats, booleans or text.
      kind: what the objective of the config asks for; None: text, and integers and booleans
        ``[n]``, are classes; integers and booleans ``[n, k]`` are several classes each; floats are
        numbers.
      where: what holds them, for messages.
      names: of the columns.
      classes: names in the order of the outputs; None: sorted.

    Raises:
      ValueError: labels of another type or shape than their kind has.
    """
    if raw.dtype.kind == "S":
        raw = np.char.decode(raw, "utf-8")
    if raw.dtype.kind not in "iubfU" or not 1 <= raw.ndim <= 2:
        raise ValueError(
            f"data.labels: {where} must hold integers, text, booleans or floats, [n] or [n, k], "
            f"found {raw.dtype} {list(raw.shape)}."
        )
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if kind is None:
        kind = "number" if raw.dtype.kind == "f" else "class"
        kind = "multi-label" if raw.ndim == 2 and kind == "class" else kind
    if kind == "class":
        return _classes(raw, where, classes)
    if classes is not None:
        raise ValueError(
            f"data.classes must be null: the labels in {where} are no single classes, the "
            f"objective is {OBJECTIVES[kind]}."
        )
    columns = raw.reshape(len(raw), -1)
    names = tuple(names) or tuple(map(str, range(columns.shape[1])))
    if raw.dtype.kind == "U":
        raise ValueError(
            f"objective {OBJECTIVES[kind]} needs numbers as labels, found text in {where}."
        )
    if kind == "number":
        finite = np.isfinite(columns)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise ValueError(
                f"data.labels: {where} has {columns[row, column]} as label {names[column]!r} of "
                f"example {row}. Leave out the examples without a label."
            )
        return Labels(columns.astype(np.float64), kind, names)
    if (wrong := (columns != 0) & (columns != 1)).any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"data.labels: {where} must hold 0 or 1 for each class, found {columns[row, column]} "
            f"for {names[column]!r} of example {row}."
        )
    return Labels(columns.astype(np.float32), kind, names)


def _classes(raw: np.ndarray, where: str, classes: Sequence[str] | None) -> Labels:
    if raw.ndim != 1 or raw.dtype.kind == "f":
        raise ValueError(
            f"data.labels: classes must be integers or text, one for each example, found "
            f"{raw.dtype} {list(raw.shape)} in {where}."
        )
    values, codes = np.unique(raw, return_inverse=True)
    found = tuple(map(str, values.tolist()))
    names = found if classes is None else tuple(classes)
    if unknown := [x for x in found if x not in set(names)]:
        raise ValueError(
            f"data.classes must name every class, and lacks {unknown[:_SOME]} of {where}."
        )
    if len(set(names)) < max(2, len(names)):
        raise ValueError(
            f"data.labels: classes must be at least two different ones, found {list(names)} in "
            f"{where}."
        )
    place = {name: i for i, name in enumerate(names)}
    order = np.array([place[name] for name in found], np.int32)
    return Labels(order[codes], "class", names)


def check_both(labels: Labels, train: np.ndarray, test: np.ndarray, where: str) -> None:
    """Refuses a class that occurs in one split only: it could not be learned, or not be judged.

    Args:
      labels: of all examples.
      train, test: their indices.
      where: what holds them, for messages.

    Raises:
      ValueError: with the classes and the split.
    """
    if labels.kind == "number":
        return
    learned, judged = (_occurring(labels, chosen) for chosen in (train, test))
    for only_there, has, lacks in (
        (learned & ~judged, "training", "test"),
        (judged & ~learned, "test", "training"),
    ):
        if only := [labels.names[i] for i in np.flatnonzero(only_there)]:
            what = "if labels are quantities, say objective: regression"
            if labels.kind == "multi-label":
                what = "where the split is random, try another data.seed"
            raise ValueError(
                f"data.labels: every class must be in both splits; {only[:_SOME]} of {where} "
                f"occurs in the {has} split and not in the {lacks} split. Add examples of it or "
                f"leave it out; {what}."
            )


def _occurring(labels: Labels, chosen: np.ndarray) -> np.ndarray:
    values = labels.values[chosen]
    if labels.kind == "class":
        return np.bincount(values, minlength=len(labels.names)) > 0
    return (values > 0).any(0)
