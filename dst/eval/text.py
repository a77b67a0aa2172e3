"""Text on which language models are calibrated and judged, as windows of tokens."""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import checks
from dst.core.text import shown
from dst.core.typing import Int
from dst.train.data import stdlib
from dst.train.data.text import read, split

_HELD_OUT = 5  # one entry in so many; of files, this share of the bytes
_AT_ONCE = 2**21  # characters; the package takes almost 1 kB for every token of a call


@dataclass(frozen=True)
class Sides:
    """A text in two parts that share nothing.

    Attributes:
      calibration: for methods that look at data.
      held_out: for judging.
    """

    calibration: str
    held_out: str


def sides(source: str) -> Sides:
    """The two sides of a text that is everywhere, or of files.

    ``topics`` is English: the help texts of Python's language reference (``pydoc_data``). Of its
    entries, those whose name has a certain hash are held out. Paragraphs that both sides have stay
    on that side only. ``stdlib`` is the source code of Python's standard library, divided as the
    data set of that name. Both depend on the version of Python that runs.

    Args:
      source: ``topics``, ``stdlib``, or a pattern of UTF-8 files: ``notes/**/*.txt``. Of several
        files, at most a fifth of the bytes is held out, of a single one its last fifth.

    Raises:
      ValueError: another name, no such files, or files that are no UTF-8.

    Example:
      >>> text = sides("topics")
      >>> len(text.calibration) > 2 * len(text.held_out) > 50_000
      True

    Checked against: the entries themselves, tests/eval/test_text.py.
    """
    if source == "topics":
        from pydoc_data.topics import topics

        return _of_entries(topics)
    if source == "stdlib":
        sources = stdlib.modules(Path(sysconfig.get_paths()["stdlib"]))
        return Sides(*(x.decode(errors="replace") for x in stdlib.split(sources)))
    texts = _files(source)
    # A single file may be cut within a character, which then is on neither side.
    calibration, held_out = (
        "\n\n".join(x.decode(errors="ignore") for x in part.values())
        for part in split(texts, 1 / _HELD_OUT, source)
    )
    return Sides(calibration, held_out)


def whole(source: str) -> str:
    """All of a text: what a published perplexity is measured on.

    Args:
      source: as for :func:`sides`.

    Raises:
      ValueError: as :func:`sides`.

    Example:
      >>> len(whole("topics")) > len(sides("topics").held_out)
      True
    """
    if source == "topics":
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    if source == "stdlib":
        sources = stdlib.modules(Path(sysconfig.get_paths()["stdlib"]))
        return "".join(x.decode(errors="replace") for x in stdlib.split(sources))
    return "\n\n".join(x.decode() for x in _files(source).values())


def _files(source: str) -> dict[str, bytes]:
    """The content of files by their names.

    Raises:
      ValueError: no such files, or files that are no UTF-8.
    """
    if not any(map(os.path.isfile, [source, *glob.iglob(source, recursive=True)])):
        raise ValueError(
            "text must be 'topics', 'stdlib' or a pattern of files such as 'notes/**/*.txt', got "
            f"{shown(source)}, and no file is there.{checks.nearest(source, ('topics', 'stdlib'))}"
        )
    texts = read(source)
    for name, content in texts.items():
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"text must be UTF-8, {name} has another byte at {error.start}. Convert it."
            ) from error
    return texts


def _of_entries(entries: Mapping[str, str]) -> Sides:
    parts: dict[bool, list[str]] = {False: [], True: []}
    for name in sorted(entries):
        number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
        parts[number % _HELD_OUT == 0] += entries[name].split("\n\n")
    # Entries quote each other, with other margins.
    held_out = {" ".join(x.split()) for x in parts[True]}
    parts[False] = [x for x in parts[False] if " ".join(x.split()) not in held_out]
    return Sides("\n\n".join(parts[False]), "\n\n".join(parts[True]))


def tokens(tokenizer: Any, text: str) -> np.ndarray:
    """The tokens of a text, int32 ``[n]``, without special ones.

    A text of more than two million characters is cut at ends of lines, for its memory.

    Args:
      tokenizer: of :func:`dst.models.tokenizer`.
      text: as a whole.

    Example:
      >>> tokens(dst.models.tokenizer("SmolLM2-135M"), "The capital")  # doctest: +SKIP
      array([ 504, 3575], dtype=int32)
    """
    parts, start = [np.zeros(0, np.int32)], 0
    while start < len(text):
        end = start + _AT_ONCE
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        found = tokenizer.encode(text[start:end], add_special_tokens=False).ids
        parts.append(np.array(found, np.int32))
        start = end
    return np.concatenate(parts)


def consecutive(
    tokens: np.ndarray, length: int, count: int | None = None
) -> Int[np.ndarray, "count length"]:
    """The first windows of a text, one after the other; what is left at the end is dropped.

    Args:
      tokens: int ``[n]``.
      length: tokens per window, at least 2.
      count: how many windows; None: all.

    Raises:
      ValueError: fewer tokens than that; no windows, or nothing to predict in them.

    Example:
      >>> consecutive(np.arange(7), 3).tolist()
      [[0, 1, 2], [3, 4, 5]]
    """
    checks.integer("length", length, at_least=2)
    if count is not None:
        checks.integer("count", count, at_least=1)
    number = max(len(tokens) // length, 1) if count is None else count
    _check(len(tokens), number * length, f"{number} windows of {length} tokens")
    return tokens[: number * length].reshape(number, length)


def drawn(
    tokens: np.ndarray, length: int, count: int, seed: int
) -> Int[np.ndarray, "count length"]:
    """Windows that start anywhere in a text, each place as likely as the others.

    Args:
      tokens: int ``[n]``.
      length: tokens per window, at least 2.
      count: how many windows. They may overlap.
      seed: of NumPy's generator.

    Raises:
      ValueError: fewer tokens than a window has; no windows, or nothing to predict in them.

    Example:
      >>> drawn(np.arange(9), 3, 2, seed=0).tolist()
      [[5, 6, 7], [4, 5, 6]]

    References: the calibration data of Frantar and Alistarh 2023 (arXiv 2301.00774), of one text
    instead of documents.
    """
    checks.integer("length", length, at_least=2)
    checks.integer("count", count, at_least=1)
    _check(len(tokens), length, f"a window of {length} tokens")
    starts = np.random.default_rng(seed).integers(0, len(tokens) - length + 1, count)
    return tokens[starts[:, None] + np.arange(length)[None]]


def _check(found: int, need: int, what: str) -> None:
    if found < need:
        raise ValueError(
            f"the text is too short: {what} need {need}, found {found}. Ask for less, or give more "
            "text."
        )
