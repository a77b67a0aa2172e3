"""Pages: the templates of this folder, filled and written to files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dst.core import files
from dst.report.words import count, percent, shape


def fill(template: str, **values: Any) -> str:
    """A template's HTML. Every name in it needs a value; values are escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """Where templates are, compiled once."""
    environment = Environment(
        loader=PackageLoader("dst.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": count, "shape": shape}
    return environment


def write(path: Path, text: str) -> None:
    """Writes a page or its data, whole or not at all.

    Names of files may hold bytes that are no UTF-8; each is written as a question mark.
    """
    files.write(path, text, errors="replace")
