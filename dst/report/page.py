"""Pages: the templates of this folder, filled."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dst.report.words import count, percent, shape


def fill(template: str, **values: Any) -> str:
    """A template's HTML. What it names must be given; values are escaped."""
    environment = Environment(
        loader=PackageLoader("dst.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": count, "shape": shape}
    return environment.get_template(template).render(**values)
