"""Closing of brackets and quotes in source code that no model of ours was trained on."""

from __future__ import annotations

import io
import sysconfig
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from dst.core.registry import named
from dst.eval.tasks.choices import Choice, MultipleChoice
from dst.train.data import stdlib

_CLOSERS = (")", "]", "'", '"')  # of braces, the modules have too few
_OPENERS = {"(": ")", "[": "]", "{": "}"}
_SHORTEST, _LONGEST = 3, 200  # letters in front of what closes; characters of a prompt


@named("closing", judges="decoder")
def closing(items: int = 200, seed: int = 0, normalize: str = "nothing") -> MultipleChoice:
    """Which of ``)``, ``]``, ``'`` and ``"`` closes what is open in a piece of Python?

    Pieces are whole lines up to where a bracket or a string closes, with the place where it opens.
    They come from the modules of the standard library that the data set ``stdlib`` holds out. Each
    of the four is right equally often: who has a favourite is at chance, 1/4. Who repeats the last
    quote of the prompt is better than that. Items depend on the version of Python.

    Args:
      items: how many.
      seed: of NumPy's generator.
      normalize: as for :class:`MultipleChoice`.

    Raises:
      ValueError: no source code on this machine, or more items than it has.

    Example:
      >>> item = closing(4, seed=0).items[0]
      >>> item.choices
      (')', ']', "'", '"')

    Checked against: the text of the held-out modules, tests/eval/tasks/test_made.py.
    """
    random, chosen = np.random.default_rng(seed), []
    for answer, closer in enumerate(_CLOSERS):
        found, count = _prompts()[closer], -(-items // len(_CLOSERS))
        if count > len(found):
            raise ValueError(
                f"task closing: items must be at most {len(_CLOSERS) * len(found)}, what the "
                f"standard library has, got {items}."
            )
        prompts = [found[i] for i in random.choice(len(found), count, replace=False)]
        chosen += [Choice(x, _CLOSERS, answer) for x in prompts]
    # Of a last round that is not full, any of the four are left out.
    rounds = np.arange(len(chosen)).reshape(len(_CLOSERS), -1).T
    order = random.permuted(rounds, axis=1).ravel()[:items]
    return MultipleChoice("closing", tuple(chosen[i] for i in order), normalize)


@lru_cache(maxsize=1)
def _prompts() -> dict[str, list[str]]:
    """All prompts by what closes them, without repetitions, in the order of the modules."""
    found: dict[str, dict[str, None]] = {x: {} for x in _CLOSERS}
    sources = stdlib.modules(Path(sysconfig.get_paths()["stdlib"]))
    for name, source in sources.items():
        if stdlib.is_held_out(name):
            text = source.decode(errors="replace")
            for opener, closer in places(text):
                first = text.rfind("\n", 0, max(closer - _LONGEST, 0)) + 1
                if closer - first > _LONGEST:  # a piece begins with a line
                    first = text.find("\n", closer - _LONGEST - 1) + 1
                if text[closer] in found and 0 < first <= opener:
                    found[text[closer]][text[first:closer].lstrip("\n")] = None
    return {x: list(prompts) for x, prompts in found.items()}


def places(text: str) -> Iterator[tuple[int, int]]:
    """Where brackets and strings open and close in a source, as offsets of these characters.

    Brackets count where they close right after a name, a number, a string or another bracket that
    closes. Strings count where they close right after a word, and nothing in them opens or closes.
    """
    # Lines as the tokenizer counts them: `splitlines` would also end them at a form feed.
    starts = np.cumsum([0, *(len(line) + 1 for line in text.split("\n"))])
    stack: list[tuple[str, int]] = []
    before: tokenize.TokenInfo | None = None
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            start, end = (int(starts[row - 1]) + column for row, column in (token.start, token.end))
            if token.type == tokenize.OP and token.string in _OPENERS:
                stack.append((token.string, start))
            elif token.type == tokenize.OP and stack and token.string == _OPENERS[stack[-1][0]]:
                opener = stack.pop()[1]
                if before is not None and before.end == token.start and _ends(before):
                    yield opener, start
            elif token.type == tokenize.STRING and _is_plain(token.string):
                yield start, end - 1
            before = token
    except (tokenize.TokenError, SyntaxError):
        return  # of a module that this Python does not read: what came before it


def _ends(token: tokenize.TokenInfo) -> bool:
    """Whether only a sign may follow it at once: no string begins after it, as after ``rb``."""
    if token.type == tokenize.OP:
        return token.string in _OPENERS.values()
    long = len(token.string) >= _SHORTEST
    return token.type == tokenize.STRING or long and token.type in (tokenize.NAME, tokenize.NUMBER)


def _is_plain(string: str) -> bool:
    """Whether a string has no prefix and nothing in it that opens or closes."""
    inside = string[1:-1]
    return (
        string[0] in "'\""
        and inside[-_SHORTEST:].isalnum()
        and len(inside) >= _SHORTEST
        and not set(inside) & set("()[]{}'\"\\\n")
    )
