"""The run directory: its files, and writing them whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MASKS_INITIAL = "masks-initial.safetensors"
MASKS_FINAL = "masks-final.safetensors"
SUMMARY = "summary.json"


def weights(step: int) -> str:
    """The file that keeps the weights of a step."""
    return f"weights-{step:09d}.safetensors"


class DirectoryError(ValueError):
    """A run directory that cannot be used as asked."""


def check_free(path: Path, overwrite: bool) -> None:
    """Raises unless a run may be written to ``path``.

    Args:
      path: of the run directory.
      overwrite: whether an earlier run there may be removed.

    Raises:
      DirectoryError: something is there; or, with ``overwrite``, something that is no run.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise DirectoryError(
            f"{path} exists. Continue that run with `dst resume {path}`, replace it with "
            "--overwrite, or choose another directory with --dir."
        )
    if not (path / CONFIG).is_file():
        raise DirectoryError(
            f"{path} is no run directory: expected {CONFIG} in it, found none. It is not "
            "overwritten; choose another directory with --dir."
        )


def check_run(path: Path) -> None:
    """Raises unless ``path`` is a run directory.

    Raises:
      DirectoryError: it holds no config.
    """
    if not (path / CONFIG).is_file():
        raise DirectoryError(
            f"{path} is no run directory: expected {CONFIG} in it, found none. Give the directory "
            "that `dst train` wrote, for example runs/<name>."
        )


def create(
    path: Path, config: str, overwrite: bool, files: Mapping[str, str | Path] | None = None
) -> None:
    """Makes the directory of a new run, with its resolved config in it, in one rename.

    Args:
      path: of the directory.
      config: text of its config file.
      overwrite: whether an earlier run there may be removed.
      files: to be copied into it, by the name they get.

    Raises:
      DirectoryError: as :func:`check_free`.
    """
    check_free(path, overwrite)
    new, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir(parents=True)
    write(new / CONFIG, config)
    for name, source in (files or {}).items():
        shutil.copyfile(source, new / name)
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    shutil.rmtree(old, ignore_errors=True)


def write(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
