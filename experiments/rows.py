"""Tables of which some rows are made again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dst.report import markdown


def merged(
    there: str, heads: Sequence[str], rows: Iterable[Sequence[str]], order: Iterable[str]
) -> list[list[str]]:
    """New rows and those of a table that have another name.

    Args:
      there: the table in Markdown; its rows go if it has other heads.
      heads: of the table.
      rows: the new ones; the first cell is the name.
      order: of all names.
    """
    before, old = markdown.read_table(there)
    named = {x[0]: list(x) for x in [*(old if before == list(heads) else ()), *rows]}
    return [named[name] for name in order if name in named]
