"""Figures in Markdown: tables, and text that a program writes between two marker comments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import dropwhile, takewhile
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


def read_table(text: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the first table in a text; both empty where there is none.

    >>> read_table(table(["method", "R_s"], [["RigL", 0.27]]))
    (['method', 'R_s'], [['RigL', '0.27']])
    """
    from_first = dropwhile(lambda x: not x.startswith("|"), text.splitlines())
    lines = takewhile(lambda x: x.startswith("|"), from_first)
    cells = [[x.strip() for x in line[1:].removesuffix("|").split("|")] for line in lines]
    return (cells[0], cells[2:]) if cells else ([], [])


def read_between(path: Path, name: str) -> str:
    """What stands between ``<!-- name -->`` and ``<!-- /name -->`` in a file.

    Raises:
      ValueError: a file without exactly one such pair.
    """
    return _parts(path, name)[1]


def write_between(path: Path, name: str, text: str) -> None:
    """Replaces what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a file.

    Raises:
      ValueError: a file without exactly one such pair.
    """
    before, _, after = _parts(path, name)
    write(path, f"{before}\n{text}\n{after}")


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = path.read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"{path} must have {begin} and {end} once each. Add them.")
    before, rest = whole.split(begin)
    between, after = rest.split(end)
    return before + begin, between, end + after
