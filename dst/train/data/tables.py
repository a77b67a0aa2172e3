"""Tables of columns: which are inputs, which are labels, and what may stand in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import checks, extras
from dst.train.data import files, labelled
from dst.train.data.dataset import Dataset

_SHOWN = 30  # columns that a message shows


@dataclass(frozen=True, kw_only=True)
class Table(labelled.WithTargets):
    """What every config of a table may say.

    Attributes:
      labels: column of the labels: text or integers are classes, floats quantities. Several
        columns: of 0 and 1, or booleans, several classes for each example; of floats several
        targets.
      inputs: columns of the inputs, numbers or booleans; null: all others.
      categorical: columns among them that are one-hot encoded, by their values in sorted order;
        they are not normalised.
    """

    labels: str | tuple[str, ...]
    inputs: tuple[str, ...] | None = None
    categorical: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.not_empty("labels", list(self.targets))
        if self.inputs is not None:
            checks.not_empty("inputs", self.inputs)
        both = [x for x in self.targets if x in (*(self.inputs or ()), *self.categorical)]
        if both:
            raise ValueError(f"labels must be no inputs, got {both} as both.")

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of the labels."""
        return (self.labels,) if isinstance(self.labels, str) else tuple(self.labels)


def load(path: str, settings: Table, kind: str | None, read: Callable[[Path, Any], Any]) -> Dataset:
    """The data set of a file.

    Args:
      path: of the file.
      settings: how it is read.
      kind: of labels, as the objective of the config needs them; None: as they are.
      read: gives the table of Arrow that is in a file.

    Raises:
      ValueError: no such file or column, a missing value, text in a column of numbers, other data
        than the settings pin, or what :func:`dst.train.data.labelled.dataset` refuses.
    """
    with extras.required():
        import pyarrow as pa
    file = files.file(path)
    sha256 = files.content(file)
    files.check(sha256, settings.sha256, path)
    try:
        table = read(file, settings)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"data: {path} cannot be read: {error}") from error
    made = of_table(table, settings, kind, path)
    return replace(made, identity={**made.identity, "sha256": sha256})


def of_table(table: Any, settings: Table, kind: str | None, where: str) -> Dataset:
    """The data set of a table of Arrow; arguments and errors are those of :func:`load`."""
    names = table.column_names
    if twice := sorted({x for x in names if names.count(x) > 1}):
        raise ValueError(
            f"data: columns of {where} must have different names, found {twice} twice."
        )
    chosen = settings.inputs
    if chosen is None:
        chosen = tuple(x for x in names if x not in settings.targets)
    for key, wanted in (
        ("labels", settings.targets),
        ("inputs", chosen),
        ("categorical", settings.categorical),
    ):
        for name in wanted:
            check_name(key, name, names if key != "categorical" else list(chosen), where)
    if not chosen:
        raise ValueError(f"data.inputs: {where} has no other column than the labels.")

    raw = [values(table.column(name), name, where) for name in settings.targets]
    if len(raw) > 1:
        for name, x in zip(settings.targets, raw, strict=True):
            if x.dtype.kind == "U":
                raise _is_text(name, x, where, "give a single column of classes as data.labels")
    columns, as_they_are = [], []
    for name in chosen:
        x = values(table.column(name), name, where)
        encoded = name in settings.categorical
        columns.append(_one_hot(x) if encoded else _numbers(x, name, where))
        as_they_are += [encoded] * columns[-1].shape[1]
    return labelled.dataset(
        [(np.concatenate(columns, 1), raw[0] if len(raw) == 1 else np.stack(raw, 1))],
        settings,
        kind,
        where,
        settings.targets,
        np.array(as_they_are),
    )


def check_name(key: str, name: str, names: Sequence[str], where: str) -> None:
    """Raises unless a column is there; names the nearest one."""
    if name not in names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ValueError(
            f"data.{key}: expected the column {name!r} in {where}, found {list(names[:_SHOWN])}"
            f"{more}.{checks.nearest(name, names)}"
        )


def values(column: Any, name: str, where: str, per_row: int = 1) -> np.ndarray:
    """A column of Arrow without gaps: numbers, booleans or text.

    Args:
      column: of the table.
      name: of the column, for messages.
      where: the file, for messages.
      per_row: values of the column that are of one row of the file.

    Raises:
      ValueError: a value that is missing or infinite, or of another type.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0]) // per_row
        raise missing(name, row, where)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return np.array(column.to_pylist(), dtype=str)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"data: columns must hold numbers, booleans or text, {name!r} of {where} holds {kind}. "
            "Name the columns that are inputs in data.inputs."
        )
    found = column.to_numpy()
    if found.dtype.kind == "f" and not (finite := np.isfinite(found)).all():
        first = int(np.flatnonzero(~finite)[0])
        row = first // per_row
        if np.isnan(found[first]):
            raise missing(name, row, where)
        raise ValueError(f"data: column {name!r} of {where} has {found[first]} in row {row + 1}.")
    return found


def missing(name: str, row: int, where: str) -> ValueError:
    """The error about a gap in a row, which counts from 0 here."""
    return ValueError(
        f"data: column {name!r} of {where} has no value in row {row + 1}. Fill it in, leave out "
        "such rows, or leave out the column by data.inputs."
    )


def _is_text(name: str, values: np.ndarray, where: str, what: str) -> ValueError:
    for i, value in enumerate(values.tolist()):
        try:
            float(value)
        except ValueError:
            return ValueError(
                f"data: column {name!r} of {where} holds text, {value!r} in row {i + 1}: {what}."
            )
    return ValueError(f"data: column {name!r} of {where} holds numbers written as text: {what}.")


def _numbers(values: np.ndarray, name: str, where: str) -> np.ndarray:
    if values.dtype.kind == "U":
        what = f"encode it by data.categorical=[{name}], or leave it out by data.inputs"
        raise _is_text(name, values, where, what)
    return values[:, None].astype(np.float32 if values.itemsize < 4 else np.float64)


def _one_hot(values: np.ndarray) -> np.ndarray:
    """A column for each value, in sorted order: 1 where a row has it, 0 elsewhere."""
    known, places = np.unique(values, return_inverse=True)
    return np.eye(len(known), dtype=np.float32)[places]
