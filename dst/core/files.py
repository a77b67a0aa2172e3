"""Files that are written whole or not at all: readers see the old content or the new one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends without an error.

    It lies beside ``path``, because a rename is atomic within one file system only. After an
    error it is removed, and ``path`` is as before.

    Example:
      >>> with whole("notes.txt") as part:  # doctest: +SKIP
      ...     part.write_text("all of it")
    """
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    try:
        yield part
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write(path: str | os.PathLike[str], text: str, *, errors: str = "strict") -> None:
    """Writes a UTF-8 text file, whole or not at all.

    Args:
      path: of the file.
      text: its content.
      errors: what happens to characters that UTF-8 cannot hold, as in ``str.encode``.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors=errors)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes a JSON file, whole or not at all.

    Raises:
      ValueError: NaN or infinity, which JSON cannot hold.
    """
    write(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same with None in place of NaN and infinity, which JSON cannot hold.

    Args:
      value: of dicts, lists and scalars.

    Example:
      >>> finite({"loss": [1.0, float("inf")]})
      {'loss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: finite(x) for name, x in value.items()}
    if isinstance(value, list):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flush(*paths: Path) -> None:
    """Flushes files and directories to disk, so that a loss of power costs none of them."""
    for path in paths:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def check_space(path: Path) -> None:
    """Raises OSError unless the disk has space for another directory like this one, beside it."""
    files, disk = list(path.rglob("*")), os.statvfs(path.parent)
    size = sum(512 * p.stat().st_blocks for p in files)
    if size > (free := disk.f_bavail * disk.f_frsize):
        raise OSError(f"no space left: {size} bytes needed, {free} free")
    # Some file systems have no limit, and say that they have no inodes.
    if disk.f_files and len(files) > disk.f_favail:
        raise OSError(f"no inodes left: {len(files)} files needed, {disk.f_favail} free")
