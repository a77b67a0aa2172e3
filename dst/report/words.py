"""Figures as a person would write them; a dash where one is unknown."""

from __future__ import annotations


def figure(value: float | None, share: bool) -> str:
    """A fraction in percent, another figure with three decimals."""
    return percent(value) if share or value is None else f"{value:.3f}"


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
