"""Tables in plain text."""

from __future__ import annotations

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
