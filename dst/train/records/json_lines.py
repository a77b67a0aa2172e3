"""``metrics.jsonl``: all records of a run, one JSON object per line."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Mapping
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
        self._path, self._warned, self._named = path, False, False
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
        """Cuts off the records after ``step``. Lines that are none stay, and are named once."""
        end = at = 0
        bad: list[int] = []
        for i, line in enumerate(_lines(self._path.read_bytes()), 1):
            at += len(line)
            if (record := parse(line)) is None:
                bad.append(i)
            elif record["step"] > step:
                break
            else:
                end = at
        self._file.truncate(end)
        self._waiting = [x for x in self._waiting if json.loads(x)["step"] <= step]
        if bad and not self._named:
            which = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            text = f"warning: {self._path}: left out as no record of a run: line {which}."
            print(text, file=sys.stderr, flush=True)
            self._named = True

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
    """The records of a ``metrics.jsonl``; lines that are none are left out."""
    lines = _lines(path.read_bytes()) if path.is_file() else []
    return [record for line in lines if (record := parse(line)) is not None]


def parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None for a line that is none: cut off, damaged, or something else."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    step = record.get("step")
    if not isinstance(step, (int, float)) or isinstance(step, bool) or not math.isfinite(step):
        return None
    return record | {"step": int(step)}


def _lines(data: bytes) -> list[bytes]:
    """Lines with their ends. Other marks that end a line of text are no ends here."""
    *whole, rest = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])
