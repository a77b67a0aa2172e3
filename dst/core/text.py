"""Tables and values in plain text."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of a text table; each column has the width of its longest cell.

    Args:
      rows: cells, equally many in each row; the first row contains the heads.
      left: this many columns are aligned to the left, the others to the right.

    Example:
      >>> print("\\n".join(aligned([("leaf", "active"), ("out/kernel", "12")])))
      leaf        active
      out/kernel      12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# A message names what it found; it does not repeat a page of it. `reprlib` never builds the rest.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 5, 12, 12, 12
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = _LONGEST = 80


def decimals(value: float | None, digits: int) -> str:
    """A figure with so many decimals; a dash where it is unknown."""
    return "–" if value is None else f"{value:.{digits}f}"


def shown(value: object) -> str:
    """A value as messages show it: its ``repr``, cut to 80 characters.

    >>> shown("rigl"), shown([1, 2]), len(shown("a" * 5000))
    ("'rigl'", '[1, 2]', 80)
    """
    return short(_SHORT.repr(value))


_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]*@")


def masked(text: str) -> str:
    """A text in which the passwords of addresses are hidden.

    >>> masked("cannot open postgresql://me:secret@host/db")
    'cannot open postgresql://me:***@host/db'
    """
    return _PASSWORD.sub(r"\1:***@", text)


def short(text: str) -> str:
    """A name as messages show it: cut to 80 characters."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
