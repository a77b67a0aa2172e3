"""A table in a Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dst.core.registry import named
from dst.train.data import tables
from dst.train.data.dataset import Dataset


@named("parquet:*", path=True)
@dataclass(frozen=True, kw_only=True)
class Parquet(tables.Table):
    """A table in a Parquet file: `parquet:houses.parquet`.

    Columns of numbers become float32. A missing value is refused.
    """

    def load(self, name: str, kind: str | None = None) -> Dataset:
        """The data set ``parquet:path``."""
        return tables.load(name.removeprefix("parquet:"), self, kind, _read)


def _read(path: Path, settings: Parquet) -> Any:
    from pyarrow import parquet

    chosen = None
    if settings.inputs is not None:  # columns that nobody asked for may be large
        known = parquet.read_schema(path).names
        chosen = [x for x in known if x in (*settings.inputs, *settings.targets)]
        if len(chosen) < len(settings.inputs) + len(settings.targets):
            chosen = None  # the message about a missing one names them all
    return parquet.read_table(path, columns=chosen)
