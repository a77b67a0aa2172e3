"""Retrieval of the sentence that follows another one."""

from __future__ import annotations

import re

import numpy as np

from dst.core.registry import named
from dst.eval.tasks.pairs import Pair, Retrieval
from dst.eval.text import sides

_SHORTEST, _LONGEST = 20, 300  # characters of a sentence
_PROSE = re.compile(r"[A-Z][^|]*[.]")


@named("retrieval", judges="encoder")
def retrieval(items: int = 100, seed: int = 0) -> Retrieval:
    """Which sentence follows this one in its paragraph, of the held-out topics of Python's help?

    No sentence is in two pairs. The candidates are the second sentences of all pairs. Items depend
    on the version of Python.

    Args:
      items: how many.
      seed: of NumPy's generator.

    Raises:
      ValueError: more items than the text has pairs.

    Example:
      >>> retrieval(100, seed=0).chance
      0.01

    References: the inverse cloze task of Lee et al. 2019 (arXiv 1906.00300), of one sentence.
    Checked against: the paragraphs of the text, tests/eval/tasks/test_made.py.
    """
    pairs: list[Pair] = []
    seen: set[str] = set()
    for paragraph in sides("topics").held_out.split("\n\n"):
        sentences = re.split(r"(?<=[.]) +", " ".join(paragraph.split()))
        while len(sentences) > 1:
            first, second, *others = sentences
            if _is_prose(first) and _is_prose(second) and not seen & {first, second}:
                pairs.append(Pair(first, second))
                seen |= {first, second}
                sentences = others
            else:
                sentences = [second, *others]
    if items > len(pairs):
        raise ValueError(
            f"task retrieval: items must be at most {len(pairs)}, what the text has, got {items}."
        )
    chosen = np.random.default_rng(seed).choice(len(pairs), items, replace=False)
    return Retrieval("retrieval", tuple(pairs[i] for i in chosen))


def _is_prose(sentence: str) -> bool:
    return _SHORTEST <= len(sentence) <= _LONGEST and bool(_PROSE.fullmatch(sentence))
