"""Figures, settings and lists as a person would write them; a dash where a figure is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DETAILS = 4  # settings of one section in a sentence
_LISTED = 5


def figure(value: float | None, share: bool) -> str:
    """A fraction in percent, another figure with three decimals."""
    return percent(value) if share or value is None else f"{value:.3f}"


def of_all(value: float | None, n: int | None) -> str:
    """``353 of 360``: what a share of ``n`` counts; empty where it is no whole number of them."""
    if value is None or not n or not 0 <= value <= 1:
        return ""
    counted = round(value * n)
    return f"{counted:,} of {n:,}" if abs(value * n - counted) < 0.02 + 1e-6 * n else ""


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash where it is unknown."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def count(value: float | None) -> str:
    """An integer with thousands separators; a dash where it is unknown."""
    return "–" if value is None else f"{value:,.0f}"


def shape(value: tuple[int, ...]) -> str:
    """``64 × 300``; a dash where it is unknown."""
    return " × ".join(map(str, value)) or "–"


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would use."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def listed(values: Sequence[object]) -> str:
    """``1, 2, 3, 4, 5, ...``: the first of many."""
    return ", ".join(map(str, values[:_LISTED])) + (", ..." if len(values) > _LISTED else "")


def joined(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def name_of(section: Mapping[str, Any]) -> str:
    """The name in a section of a config; of an import path the last part; empty for none."""
    name = section.get("name") or str(section.get("import") or "").rpartition(":")[2]
    return str(name)


def worded(value: Any) -> str:
    """A setting as text, ``0.1``, ``300, 100`` or ``mlp (hidden 300, 100)``.

    Numbers drawn at random have more digits than anyone wants to read.
    """
    if isinstance(value, Mapping):
        details = [
            f"{key.replace('_', ' ')} {worded(x)}"
            for key, x in value.items()
            if key not in ("name", "import") and isinstance(x, int | float | str | list)
        ]
        in_brackets = f" ({'; '.join(details[:_DETAILS])})" if details else ""
        return name_of(value) and f"{name_of(value)}{in_brackets}"
    if isinstance(value, float):
        return f"{value:.15g}" if len(f"{value:.15g}") <= 7 else f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(worded, value))
    return "none" if value is None else str(value)
