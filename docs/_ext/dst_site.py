"""Sphinx extension: makes the generated pages, and the links of all pages to files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import generate
import links
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from reference import PAPER


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_math, None), (_math, None))
    app.connect("config-inited", lambda app, config: generate.write())
    app.connect("source-read", _source_read)
    app.connect("include-read", _include_read)
    app.connect("autodoc-process-docstring", _docstring)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _math(writer: Any, node: nodes.Element) -> None:
    """Formulas as MathML, which browsers show without a program from elsewhere."""
    block = isinstance(node, nodes.math_block)
    writer.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def _source_read(app: Any, name: str, source: list[str]) -> None:
    file = Path(app.env.doc2path(name))
    if not file.is_relative_to(links.GENERATED):  # those have what they are to have
        source[0] = links.rewritten(source[0], file, file)


def _include_read(app: Any, path: Path, name: str, content: list[str]) -> None:
    origin = (Path(app.srcdir) / path).resolve()
    # MyST gives the last part of the page's name only.
    page = Path(app.env.doc2path(app.env.docname))
    content[0] = links.rewritten(content[0], origin, page)


def _docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Titled paragraphs stand for themselves; fields of named tuples say nothing of themselves."""
    if what == "attribute" and lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    for i in reversed(range(len(lines))):
        lines[i] = PAPER.sub(r"`\g<0> <https://arxiv.org/abs/\1>`__", lines[i])
        if titled := re.match(r"(Checked against|Differs from [^:]*|Not built): *(.*)", lines[i]):
            lines[i : i + 1] = ["", f"**{titled[1]}:** {titled[2]}"]
