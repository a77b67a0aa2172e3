"""Figures in Markdown: tables, and text that a program writes between two marker comments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dst.core.files import write


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table.

    >>> print(table(["method", "R_s"], [["RigL", 0.27], ["SET", 0.41]]))
    | method | R_s |
    |---|---|
    | RigL | 0.27 |
    | SET | 0.41 |
    """
    lines = ["|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(heads)} |", *lines])


def write_between(path: Path, name: str, text: str) -> None:
    """Replaces what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a file.

    Raises:
      ValueError: a file without exactly one such pair.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = path.read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"{path} must have {begin} and {end} once each. Add them.")
    before, rest = whole.split(begin)
    write(path, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
