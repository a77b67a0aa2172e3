"""Links to files of the repository, as links of the site.

A page names files where they lie (``../experiments/digits_98/README.md``), so that its links work
in a checkout too. Experiments and notebooks are pages of the site; others can be downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "generated"

# Code, of which links are no links; then links and images, whose target has no space.
_PARTS = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)|`[^`\n]+`)|(?P<head>!?\[[^\]]*\]\()(?P<target>[^)\s]+)",
    re.MULTILINE | re.DOTALL,
)


def links(text: str) -> Iterator[str]:
    """Targets of the links and images of a Markdown text, outside of code."""
    return (m["target"] for m in _PARTS.finditer(text) if m["target"])


def inside(target: str) -> bool:
    """Whether a target is a file of the repository, not an address or a place on the same page."""
    return not re.match(r"[a-z][a-z+.-]*:|#", target)


def rewritten(text: str, origin: Path, page: Path) -> str:
    """A Markdown text with its links to files as they are to be in the site.

    Args:
      text: as it stands in the repository.
      origin: file that the text is from.
      page: file in ``docs`` that it becomes a part of.

    Raises:
      ValueError: a link to a file that does not exist.
    """

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if match["code"] or not inside(target):
            return match[0]
        name, mark, place = target.partition("#")
        file = Path(os.path.normpath(origin.parent / name))
        if not file.exists():
            raise ValueError(f"{origin}: expected a file of the repository, found none: {target}")
        return f"{match['head']}{_in_site(file, page)}{mark}{place}"

    return _PARTS.sub(link, text)


@cache
def _method_pages() -> dict[str, str]:
    """The page of each method, by the file that holds the method."""
    from dst.methods import METHODS, PRESETS

    return {x.__module__.rpartition(".")[2]: name for name, x in {**METHODS, **PRESETS}.items()}


def _in_site(file: Path, page: Path) -> str:
    path = file.relative_to(ROOT)
    if path.parent == Path("docs", "intro"):  # first words of a generated page
        whole = path.stem == "configuration"
        found = GENERATED / (path.name if whole else f"{path.stem}/index.md")
    elif file.is_relative_to(DOCS):
        found = file
    elif path.parent == Path("dst", "methods") and path.stem in _method_pages():
        found = GENERATED / "methods" / f"{_method_pages()[path.stem]}.md"
    elif path.name == "README.md" and path.parts[0] == "experiments":
        found = GENERATED / "experiments" / f"{path.parts[1]}.md"
    elif path.suffix == ".ipynb":
        found = GENERATED / "notebooks" / path.name
    elif str(path) == "README.md":
        found = DOCS / "index.md"
    elif str(path) in ("CONTRIBUTING.md", "CHANGELOG.md"):
        found = DOCS / path.name.lower()
    else:
        found = file
    return os.path.relpath(found, page.parent)
