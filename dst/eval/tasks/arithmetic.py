"""Sums and differences of numbers of two and of three digits."""

from __future__ import annotations

import numpy as np

from dst.core.registry import named
from dst.eval.tasks.choices import Choice, MultipleChoice

_SHOTS, _CHOICES = 3, 4


@named("arithmetic-2", judges="decoder")
def two(items: int = 200, seed: int = 0, normalize: str = "nothing") -> MultipleChoice:
    """Sums and differences of two-digit numbers; see :func:`three`.

    Example:
      >>> item = two(1, seed=0).items[0]
      >>> print(item.prompt)
      52 + 33 = 85
      80 + 69 = 149
      90 + 82 = 172
      76 + 72 =
      >>> item.choices, item.answer
      ((' 148', ' 138', ' 128', ' 118'), 0)

    Checked against: Python's own arithmetic, tests/eval/tasks/test_made.py.
    """
    return _task("arithmetic-2", 2, items, seed, normalize)


@named("arithmetic-3", judges="decoder")
def three(items: int = 200, seed: int = 0, normalize: str = "nothing") -> MultipleChoice:
    """Sums and differences of three-digit numbers, after three examples that are solved.

    The choices are four numbers with equally many digits and equal distances of 1, 10 or 100. The
    numbers are drawn first and the right one among them second. So no digit, no size and no place
    among the choices says which one it is: chance is 1/4.

    Args:
      items: how many.
      seed: of NumPy's generator.
      normalize: as for :class:`MultipleChoice`.

    Example:
      >>> three(1, seed=0).items[0].prompt.count("=")
      4

    References: the sums of Brown et al. 2020 (arXiv 2005.14165), as multiple choice.
    Checked against: Python's own arithmetic, tests/eval/tasks/test_made.py.
    """
    return _task("arithmetic-3", 3, items, seed, normalize)


def _task(name: str, digits: int, items: int, seed: int, normalize: str) -> MultipleChoice:
    random = np.random.default_rng(seed)
    return MultipleChoice(name, tuple(_item(random, digits) for _ in range(items)), normalize)


def _item(random: np.random.Generator, digits: int) -> Choice:
    low, high = 10 ** (digits - 1), 10**digits - 1
    add = bool(random.integers(2))
    # Results with equally many digits: of sums, those with a carry to a further digit or without.
    ranges = [(2 * low, high), (high + 1, 2 * high)] if add else [(low, high - low)]
    first, last = ranges[random.integers(len(ranges))]
    step = 10 ** int(random.integers(digits))
    step = step if first + (_CHOICES - 1) * step <= last else step // 10
    smallest = int(random.integers(first, last - (_CHOICES - 1) * step + 1))
    results = smallest + step * random.permutation(_CHOICES)
    answer = int(random.integers(_CHOICES))
    examples = []
    for _ in range(_SHOTS):
        first, last = ranges[random.integers(len(ranges))]
        result = int(random.integers(first, last + 1))
        examples.append(f"{_problem(random, result, low, high, add)} {result}\n")
    prompt = "".join(examples) + _problem(random, int(results[answer]), low, high, add)
    return Choice(prompt, tuple(f" {x}" for x in results), answer)


def _problem(random: np.random.Generator, result: int, low: int, high: int, add: bool) -> str:
    """A problem with this result: ``12 + 34 =``."""
    if add:
        one = int(random.integers(max(low, result - high), min(high, result - low) + 1))
        return f"{one} + {result - one} ="
    one = int(random.integers(result + low, high + 1))
    return f"{one} - {one - result} ="
