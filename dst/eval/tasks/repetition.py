"""Repetition: what came after a word before."""

from __future__ import annotations

import numpy as np

from dst.core.registry import named
from dst.eval.tasks.choices import Choice, MultipleChoice

_WORDS = (
    "apple arm bell bird boat bone bread bridge cake camp card chair cloud coat coin corn desk dog "
    "door dress drum egg farm fire fish flag floor fork glass gold grass hand hat hill horse house "
    "key king lake lamp leaf map milk mouse nail nest paper pen pipe plate rain ring road rock "
    "roof rope salt sand ship shoe snow soap song spoon stone table tree wall wheel wood"
).split()
_GROUPS, _SIZE = 4, 3


@named("repetition", judges="decoder")
def repetition(items: int = 200, seed: int = 0, normalize: str = "nothing") -> MultipleChoice:
    """Twelve random words, then two of them again; which word follows?

    The choices are every third word of the list. The two words stand in front of one of them, each
    equally often. Each choice stands in the prompt once, so who repeats words, or has a favourite
    place, is at chance, 1/4.

    Args:
      items: how many.
      seed: of NumPy's generator.
      normalize: as for :class:`MultipleChoice`.

    Example:
      >>> len(repetition(1, seed=0).items[0].prompt.split())
      14

    References: induction heads do it, Olsson et al. 2022 (arXiv 2209.11895).
    Checked against: its own prompts, tests/eval/tasks/test_made.py.
    """
    random, made = np.random.default_rng(seed), []
    for _ in range(items):
        words = random.choice(_WORDS, _GROUPS * _SIZE, replace=False).tolist()
        answer = int(random.integers(_GROUPS))
        right = answer * _SIZE + _SIZE - 1
        prompt = f"{' '.join(words)}\n{' '.join(words[right - _SIZE + 1 : right])}"
        choices = [f" {x}" for x in words[_SIZE - 1 :: _SIZE]]
        made.append(Choice(prompt, tuple(choices), answer))
    return MultipleChoice("repetition", tuple(made), normalize)
