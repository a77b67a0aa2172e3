"""Patterns of leaf paths: ``*`` and ``?`` inside a segment, ``**`` over segments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from dst.core import checks


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = []
    for segment in pattern.strip("/").split("/"):
        if segment == "**":
            parts.append("(?:[^/]+/)*")
            continue
        text = "".join(
            "[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c) for c in segment
        )
        parts.append(text + "/")
    return re.compile("".join(parts))


def matches(pattern: str, path: str) -> bool:
    """Whether a path matches: ``*`` and ``?`` inside a segment, ``**`` any number of segments."""
    return _compiled(pattern).fullmatch(path + "/") is not None


def lookup(patterns: Mapping[str, Any] | None, path: str) -> Any | None:
    """The value of the last pattern that matches a path, or None."""
    result = None
    for pattern, value in (patterns or {}).items():
        if matches(pattern, path):
            result = value
    return result


def chosen(patterns: Sequence[str], path: str) -> bool:
    """What the last pattern that matches says: yes, or no where it begins with ``!``.

    A path that none matches is chosen where all patterns begin with ``!``.
    """
    verdict = all(pattern.startswith("!") for pattern in patterns)
    for pattern in patterns:
        if matches(pattern.removeprefix("!"), path):
            verdict = not pattern.startswith("!")
    return verdict


def require_matches(argument: str, patterns: Iterable[str], paths: Sequence[str]) -> None:
    """Raises when a pattern matches no path, and lists the paths."""
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            listed = "\n  ".join(paths)
            raise ValueError(
                f"{argument}: pattern {pattern!r} matches no parameter."
                f"{checks.nearest(pattern, paths)} The paths are:\n  {listed}"
            )
