"""A data set that the package ``datasets`` of Hugging Face saved on disk, read by Arrow alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dst.core import checks, extras
from dst.core.registry import named
from dst.train.data import files, labelled, pictures, tables
from dst.train.data.dataset import Dataset

_SPLITS = "dataset_dict.json"  # in a folder of several splits
_STATE, _INFO = "state.json", "dataset_info.json"  # in the folder of each
_HELD_OUT = ("test", "validation")


@named("hf:*", path=True)
@dataclass(frozen=True)
class Hf(pictures.Shaped, labelled.WithTargets):
    """What `save_to_disk` of Hugging Face's `datasets` wrote: `hf:folder`. Nothing is downloaded.

    Inputs are images, numbers, or lists of numbers of one shape. Where the folder has the splits
    `train` and `test` (or `validation`), they are kept. Images above 1 GB are decoded where they
    are needed, by threads.

    Checked against: data sets that `datasets` 5.2.0 saved (images, lists, arrays; one split, two
    splits, several files), read by hand.

    Attributes:
      inputs: column of the inputs; several columns of numbers follow each other.
      labels: column of the labels: integers or text are classes, with the names that the data have;
        floats quantities, lists of 0 and 1 several classes for each example.
      held_out: name of the split that is evaluated; null: `test`, or else `validation`.
    """

    inputs: str | tuple[str, ...] = "image"
    labels: str = "label"
    held_out: str | None = None

    def __post_init__(self) -> None:
        labelled.WithTargets.__post_init__(self)
        pictures.Shaped.__post_init__(self)
        checks.not_empty("inputs", list(self.columns))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the inputs."""
        return (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)

    def load(self, name: str, kind: str | None = None) -> Dataset:
        """The data set ``hf:folder``."""
        return load(name.removeprefix("hf:"), self, kind)


@dataclass(frozen=True)
class Cell:
    """An image in a table.

    Attributes:
      column: of Arrow, with the bytes or the path of each image.
      row: from 0.
      where: the column, for messages.
    """

    column: Any
    row: int
    where: str

    def __str__(self) -> str:
        return f"row {self.row + 1} of {self.where}"

    def stream(self) -> BinaryIO:
        """The encoded image."""
        value = self.column[self.row].as_py() or {}
        if value.get("bytes") is None:
            return open(value.get("path") or "", "rb")
        return BytesIO(value["bytes"])


def load(path: str, settings: Hf, kind: str | None = None) -> Dataset:
    """The data set of a folder.

    Args:
      path: of the folder.
      settings: how it is read.
      kind: of labels, as the objective of the config needs them; None: as they are.

    Raises:
      ValueError: no such folder, split or column, text or gaps among the inputs, other data than
        the settings pin, or what :func:`dst.train.data.labelled.dataset` and
        :func:`dst.train.data.pictures.dataset` refuse.
    """
    with extras.required():
        import pyarrow  # noqa: F401 (before files are looked at)
    root = Path(path)
    folders = _folders(root, settings)
    states = [_json(folder / _STATE) for folder in folders]
    shards = [_shards(*x) for x in zip(folders, states, strict=True)]
    sizes = files.names_and_sizes(root, (file for own in shards for file in own))
    sha256 = files.text(repr([sizes, *(x.get("_fingerprint") for x in states)]))
    files.check(sha256, settings.sha256, path)

    features = _json(folders[0] / _INFO).get("features") or {}
    parts = [_table(own) for own in shards]
    for key, wanted in (("inputs", settings.columns), ("labels", (settings.labels,))):
        for name in wanted:
            tables.check_name(key, name, parts[0].column_names, path)
    classes = None
    if kind in (None, "class"):
        classes = features.get(settings.labels, {}).get("names")
    labels = [_labels(table, settings.labels, classes, path) for table in parts]
    kinds = [features.get(name, {}).get("_type") for name in settings.columns]
    if "Image" in kinds:
        made = _of_images(parts, labels, classes, settings, kind, path)
    else:
        for name in ("size", "channels", "augment"):
            if getattr(settings, name) not in (None, "none"):
                raise ValueError(
                    f"data.{name} is for images; {settings.columns} of {path} are none."
                )
        inputs = [_numbers(table, settings.columns, path) for table in parts]
        pairs = list(zip(inputs, labels, strict=True))
        made = labelled.dataset(pairs, settings, kind, path, classes=classes)
    return replace(made, identity={**made.identity, "sha256": sha256})


def _folders(root: Path, settings: Hf) -> list[Path]:
    """The folder of all examples, or those of the two splits."""
    if (root / _STATE).is_file():
        if settings.held_out is not None:
            raise ValueError(f"data.held_out must be null: {root} is a single split.")
        return [root]
    if not (root / _SPLITS).is_file():
        what = f"a data set that save_to_disk wrote (a folder with {_STATE} or {_SPLITS})"
        raise ValueError(files.missing(what, str(root)))
    names = _json(root / _SPLITS).get("splits") or []
    if settings.held_out is not None:
        checks.one_of("data.held_out", settings.held_out, names)
    wanted = _HELD_OUT if settings.held_out is None else (settings.held_out,)
    held_out = [name for name in wanted if name in names]
    if "train" not in names:
        raise ValueError(f"data: expected the split 'train' in {root}, found {names}.")
    return [root / name for name in ("train", *held_out[:1])]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(files.file(str(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"data: {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"data: expected a mapping in {path}, found {type(found).__name__}.")
    return found


def _shards(folder: Path, state: dict[str, Any]) -> list[Path]:
    if state.get("_indices_files"):
        raise ValueError(
            f"data: {folder} is a selection of a larger table. Save it by flatten_indices()."
        )
    names = [x["filename"] for x in state.get("_data_files") or []]
    return [files.file(str(folder / name)) for name in names]


def _table(shards: Sequence[Path]) -> Any:
    """The table of Arrow of some files; what is not asked for stays on disk."""
    import pyarrow as pa

    parts = []
    for path in shards:
        try:
            parts.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"data: {path} cannot be read: {error}") from error
    if not parts:
        raise ValueError("data: expected at least one file of examples in each split.")
    return pa.concat_tables(parts)


def _of_images(
    parts: Sequence[Any],
    labels: Sequence[np.ndarray],
    classes: Sequence[str] | None,
    settings: Hf,
    kind: str | None,
    where: str,
) -> Dataset:
    if len(settings.columns) > 1:
        raise ValueError(f"data.inputs must be one column for images, got {settings.columns}.")
    (name,) = settings.columns
    split = len(parts) > 1
    pairs = []
    for i, (table, own) in enumerate(zip(parts, labels, strict=True)):
        of = f"{name!r} in {where}" + (f" ({('training', 'test')[i]} split)" if split else "")
        column = table.column(name)
        pairs.append(([Cell(column, row, of) for row in range(len(column))], own))
    return pictures.dataset(pairs, settings, kind, where, classes=classes)


def _labels(table: Any, name: str, classes: Sequence[str] | None, where: str) -> np.ndarray:
    values = _array(table.column(name), name, where)
    if classes is None or values.dtype.kind not in "iu" or values.ndim > 1:
        return values
    if len(bad := np.flatnonzero((values < 0) | (values >= len(classes)))):
        raise ValueError(
            f"data.labels: {name!r} of {where} must be in 0 to {len(classes) - 1}, found "
            f"{values[bad[0]]} in row {bad[0] + 1}. Splits without labels cannot be evaluated."
        )
    return np.array(classes)[values]


def _numbers(table: Any, names: Sequence[str], where: str) -> np.ndarray:
    columns = []
    for name in names:
        values = _array(table.column(name), name, where)
        if values.dtype.kind == "U":
            raise ValueError(
                f"data.inputs: column {name!r} of {where} holds text. Write it to files, and train "
                "on them by text:."
            )
        columns.append(labelled.numbers(values, f"column {name!r} of {where}"))
    if len(columns) == 1:
        return columns[0]
    return np.concatenate([x.reshape(len(x), -1) for x in columns], 1)


def _array(column: Any, name: str, where: str) -> np.ndarray:
    """A column of values, or of lists of equal shapes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    n, shape = len(column), list[int]()
    if isinstance(column.type, pa.ExtensionType):  # where `datasets` is loaded: its arrays
        column = column.cast(column.type.storage_type)
    while pa.types.is_nested(column.type) and hasattr(column.type, "value_type"):
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0]) // math.prod(shape)
            raise tables.missing(name, row, where)
        lengths = np.unique(pc.list_value_length(column).to_numpy())
        if len(lengths) > 1:
            raise ValueError(
                f"data: lists of column {name!r} of {where} must have one length, found "
                f"{lengths[:5].tolist()}."
            )
        shape.append(int(lengths[0]) if len(lengths) else 0)
        column = pc.list_flatten(column)
    return tables.values(column, name, where, math.prod(shape)).reshape(n, *shape)
