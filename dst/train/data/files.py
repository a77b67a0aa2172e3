"""Files of the user's own: where they are looked for, and what pins their content."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def located(path: str, config: Path) -> str:
    """The absolute path of what a config names.

    Args:
      path: of a file or a folder, or a pattern of files.
      config: the file that names it. What lies beside it comes first, then the working directory.

    Returns:
      The place where something is; where there is nothing, the one beside the config.
    """
    own = os.path.expanduser(path)
    places = [os.path.abspath(folder / own) for folder in (config.parent, Path())]
    return next((p for p in places if _exists(p)), places[0])


def _exists(path: str) -> bool:
    return os.path.exists(path) or next(glob.iglob(path, recursive=True), None) is not None


def file(path: str) -> Path:
    """A file of data.

    Raises:
      ValueError: there is none.
    """
    if not os.path.isfile(path):
        raise ValueError(missing("a file", path))
    return Path(path)


def missing(what: str, path: str) -> str:
    """The message about something that is not there."""
    return (
        f"data: expected {what} at {path}, found none. A relative path is looked for beside the "
        "config, then from the working directory."
    )


def content(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text(content: str) -> str:
    """The SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(content.encode()).hexdigest()


def names_and_sizes(root: Path, files: Iterable[Path]) -> str:
    """The SHA-256 of the names and the sizes of files in a folder: their content is not read."""
    sizes = sorted((x.relative_to(root).as_posix(), x.stat().st_size) for x in files)
    return text(repr(sizes))


def check(found: str, expected: str | None, where: str) -> None:
    """Refuses data that are not those that a run was trained on.

    Args:
      found: their SHA-256.
      expected: that of the config; None: any.
      where: their path.

    Raises:
      ValueError: both differ.
    """
    if expected not in (None, found):
        raise ValueError(
            f"data.sha256: this run is of data with SHA-256 {expected[:12]}..., found "
            f"{found[:12]}... in {where}. Restore what it was trained on; or set data.sha256=null "
            "and train on what is there, which gives other figures."
        )
