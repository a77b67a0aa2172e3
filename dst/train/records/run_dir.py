"""The run directory: its files and its lock."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from dst.core.files import write
from dst.core.text import shown

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MASKS_INITIAL = "masks-initial.safetensors"
MASKS_FINAL = "masks-final.safetensors"
SUMMARY = "summary.json"
REPORT = "report.html"
LOCK = "lock"
# In the environment of a script that `dst sweep` runs as a trial: where it writes.
DIRECTORY = "DST_RUN_DIRECTORY"


def weights(step: int) -> str:
    """The file that keeps the weights of a step."""
    return f"weights-{step:09d}.safetensors"


class DirectoryError(ValueError):
    """A run directory that cannot be used as asked."""


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises DirectoryError unless a path is text that a file system and a report can hold."""
    text = os.fspath(path)
    if "\0" in text or not _is_utf8(text):
        raise DirectoryError(
            f"a directory must have a name of UTF-8 characters other than NUL, got {shown(text)}. "
            "Choose another one."
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are none
        return False
    return True


def check_free(path: Path, overwrite: bool) -> None:
    """Raises unless a run may be written to ``path``.

    Args:
      path: of the run directory.
      overwrite: whether an earlier run there may be removed.

    Raises:
      DirectoryError: the directory is not empty; with ``overwrite``, it holds something else than
        a run; or a name that no directory can have.
    """
    check_path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise DirectoryError(
            f"{path} exists. Continue that run with `dst resume {path}`, replace it with "
            "--overwrite, or choose another directory with --dir."
        )
    if not (path / CONFIG).is_file():
        raise DirectoryError(
            f"{path} is no run directory: expected {CONFIG} in it, found none. It was left as it "
            "is; choose another directory with --dir."
        )


def check_run(path: Path) -> None:
    """Raises unless ``path`` is a run directory.

    Raises:
      DirectoryError: it holds no config, or as :func:`check_path`.
    """
    check_path(path)
    if not (path / CONFIG).is_file():
        raise DirectoryError(
            f"{path} is no run directory: expected {CONFIG} in it, found none. Give the directory "
            "that `dst train` wrote, for example runs/<name>."
        )


def lock(path: Path) -> IO[str]:
    """Locks a run directory for this process, so that no other one writes to it.

    The operating system holds the lock on a file and releases it when the process ends, however it
    ends. The file itself stays; alone it means nothing.

    Args:
      path: of the directory.

    Returns:
      A context manager that releases the lock.

    Raises:
      DirectoryError: another process holds the lock, or this one already does.
    """
    try:  # through no link: what it names would be overwritten
        number = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DirectoryError(
            f"{path / LOCK} is a symbolic link, and a lock is none. Remove it."
        ) from error
    file = os.fdopen(number, "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            holder = file.read().strip() or "another process"
        raise DirectoryError(
            f"{path} is in use by {holder}. Wait until it has finished or stop it, or choose "
            "another directory with --dir."
        ) from None
    except OSError as error:  # some network file systems have no locks
        print(f"warning: {path} is not locked ({error.strerror}): start one process there only")
    with suppress(OSError):  # on a full disk the lock still holds; only its holder is not named
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def create(
    path: Path, config: str, overwrite: bool, files: Mapping[str, str | Path] | None = None
) -> IO[str]:
    """Creates the directory of a new run, with its resolved config in it, in one rename.

    Args:
      path: of the directory.
      config: text of its config file.
      overwrite: whether an earlier run there may be removed.
      files: files to copy into it, by their name there.

    Returns:
      The lock on it; see :func:`lock`.

    Raises:
      DirectoryError: as :func:`check_free` and :func:`lock`.
    """
    check_free(path, overwrite)
    path = path.resolve()  # of a link, the directory that it names is replaced
    new, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    new.mkdir(parents=True, exist_ok=True)
    held = lock(new)  # moves with the directory when that is renamed
    try:
        for left_over in new.iterdir():
            if left_over.name != LOCK:
                left_over.unlink()
        write(new / CONFIG, config)
        for name, source in (files or {}).items():
            shutil.copyfile(source, new / name)
        if path.exists() and any(path.iterdir()):
            with lock(path):
                shutil.rmtree(old, ignore_errors=True)
                os.replace(path, old)
                os.replace(new, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        held.close()
        raise
    return held
