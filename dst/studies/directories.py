"""Directories of studies: which study one holds, and its figures so far."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from dst.train.config import plain_data
from dst.train.records import run_dir

# The section of a config that makes a study of it: the package whose `load`, `run`, `resume`,
# `table` and `write_report` are those of the study. `dst SECTION` is its command.
PACKAGES = {"lottery": "dst.studies.lottery", "continual": "dst.studies.continual"}


def kind(where: Path) -> str | None:
    """The section that says which study a directory holds; None: it is no study."""
    try:
        data = plain_data.read(where / run_dir.CONFIG)
    except ValueError:  # a damaged config, or none
        return None
    return next((key for key in PACKAGES if key in data), None)


def package(key: str) -> Any:
    """The package of a study; what it needs is imported when it is used."""
    return importlib.import_module(PACKAGES[key])


def result(key: str) -> str:
    """The file that holds the figures of a study."""
    return f"{key}.json"


def check(path: Path, key: str) -> None:
    """Raises DirectoryError unless a directory holds this study."""
    run_dir.check_run(path)
    if (found := kind(path)) != key:
        what = "a single run" if found is None else f"a study of `dst {found}`"
        raise run_dir.DirectoryError(
            f"{path} is the directory of {what}: expected the key {key!r} in its "
            f"{run_dir.CONFIG}, found {'none' if found is None else repr(found)}. Continue it with "
            f"`dst resume {path}`."
        )


def read(path: Path, key: str) -> dict[str, Any]:
    """The figures of a study so far: what its JSON file holds.

    Raises:
      DirectoryError: there is no such study, or none of its runs has finished.
    """
    check(path, key)
    if not (path / result(key)).is_file():
        raise run_dir.DirectoryError(
            f"{path / result(key)} is not there yet: no run of this study has finished. Continue "
            f"it with `dst resume {path}`."
        )
    return json.loads((path / result(key)).read_text(encoding="utf-8"))
