"""What the tables of the experiments say of each method: rows of their READMEs, found by name."""

from __future__ import annotations

import re
from pathlib import Path

from links import ROOT

_EXPERIMENTS = ROOT / "experiments"
_MOST = 6  # rows; an experiment with more is about something else, and is linked only
# Presets that tables call by what they do.
_CALLED = {"journey": ("25-75 %",), "set-itop": ("set-itop",), "rigl-itop": ("rigl-itop",)}


def titles() -> dict[str, str]:
    """The first heading of every experiment, by folder."""
    found = {}
    for file in sorted(_EXPERIMENTS.glob("*/README.md")):
        heading = re.match(r"# (.*)", file.read_text(encoding="utf-8"))
        found[file.parent.name] = heading[1] if heading else file.parent.name
    return found


def of(name: str) -> str:
    """The rows about a method, under links to their experiments; empty where there are none.

    Args:
      name: of the method in configs.
    """
    parts = []
    for folder, title in titles().items():
        tables = [t for t in _tables(_EXPERIMENTS / folder / "README.md") if _about(name, t)]
        if not tables:
            continue
        part = f"[{title}](../experiments/{folder}.md)"
        if sum(len(_about(name, t)) for t in tables) <= _MOST:
            part += ":\n\n" + "\n\n".join("\n".join([*t[:2], *_about(name, t)]) for t in tables)
        parts.append(part)
    return "\n\n".join(parts)


def _tables(file: Path) -> list[list[str]]:
    """Tables of a Markdown file, as lines: head, rule, rows."""
    blocks = re.findall(r"(?:^\|.*\n)+", file.read_text(encoding="utf-8"), re.MULTILINE)
    return [b.splitlines() for b in blocks if b.count("\n") > 2]


def _about(name: str, table: list[str]) -> list[str]:
    return [row for row in table[2:] if any(_names(name, cell) for cell in _cells(row)[:2])]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _names(name: str, cell: str) -> bool:
    """Whether a cell such as ``RigL, 8 gradients`` or ``MEST (EM)`` is about a method."""
    if name in _CALLED:
        return any(word in cell.lower() for word in _CALLED[name])
    return _plain(re.split(r"[,(]", cell)[0]) == _plain(name)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
