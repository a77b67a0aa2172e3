"""A table in a text file of comma-separated values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dst.core.registry import named
from dst.train.data import tables
from dst.train.data.dataset import Dataset


@named("csv:*", path=True)
@dataclass(frozen=True, kw_only=True)
class Csv(tables.Table):
    """Comma-separated values whose first line names the columns: `csv:houses.csv`.

    Columns of numbers become float32. A missing value is refused: an empty field, `NA`, `NaN`,
    `null` and the like. A file with the ending `.gz` is decompressed.

    Attributes:
      delimiter: the character between two values.
    """

    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.delimiter) != 1:
            raise ValueError(f"delimiter must be one character, got {self.delimiter!r}.")

    def load(self, name: str, kind: str | None = None) -> Dataset:
        """The data set ``csv:path``."""
        return tables.load(name.removeprefix("csv:"), self, kind, _read)


def _read(path: Path, settings: Csv) -> Any:
    from pyarrow import csv

    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(delimiter=settings.delimiter, newlines_in_values=True),
        # An empty field is a missing value, in a column of text too.
        convert_options=csv.ConvertOptions(strings_can_be_null=True, null_values=_NULL),
    )


# What Arrow reads as missing in a column of numbers, and nothing else; a text may be "null".
_NULL = ["", "#N/A", "N/A", "NA", "NULL", "NaN", "nan", "n/a", "null"]
