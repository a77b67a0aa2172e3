"""``metrics.jsonl``: all records of a run, one JSON object per line."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any


class JsonLines:
    """Writes ``metrics.jsonl``. Records after ``start`` are cut off first.

    Records that cannot be written, for example on a full disk, stay in memory until they can be. A
    warning says so once.

    Args:
      path: of the file.
      start: the step at which the run starts or resumes.
    """

    def __init__(self, path: Path, start: int):
        self._path, self._warned = path, False
        self._waiting: list[bytes] = []
        # Unbuffered: a killed run loses nothing that a checkpoint relies on.
        self._file = path.open("ab", buffering=0)
        self.rewind(start)

    def log(self, step: int, kind: str, values: Mapping[str, int | float]) -> None:
        """As :meth:`dst.train.records.loggers.Logger.log`."""
        record = {"step": step, "kind": kind, **values}
        self._waiting.append((json.dumps(record, allow_nan=False) + "\n").encode())
        self._write()

    def rewind(self, step: int) -> None:
        """Cuts off the records after ``step``."""

        def early(line: bytes) -> bool:
            return line.endswith(b"\n") and json.loads(line)["step"] <= step

        kept = takewhile(early, self._path.read_bytes().splitlines(keepends=True))
        self._file.truncate(sum(map(len, kept)))
        self._waiting = list(filter(early, self._waiting))

    def records(self) -> list[dict[str, Any]]:
        """All records so far, with those that are not written yet."""
        return read(self._path) + [json.loads(line) for line in self._waiting]

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """As :meth:`dst.train.records.loggers.Logger.close`."""
        self._write()
        if self._waiting:
            text = f"warning: the last {len(self._waiting)} records are not in {self._path}."
            print(text, file=sys.stderr, flush=True)
        self._file.close()

    def _write(self) -> None:
        text, size = b"".join(self._waiting), os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if os.fstat(self._file.fileno()).st_size > size:
                self._file.truncate(size)  # no half record in the middle of the file
            if not self._warned:
                warning = f"warning: {self._path}: {error.strerror}. Records wait in memory."
                print(warning, file=sys.stderr, flush=True)
            self._warned = True
        else:
            self._waiting, self._warned = [], False


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
