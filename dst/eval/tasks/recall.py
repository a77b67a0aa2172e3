"""Recall of a name from the context."""

from __future__ import annotations

import numpy as np

from dst.core.registry import named
from dst.eval.tasks.choices import Choice, MultipleChoice

_PEOPLE = (
    "Alice Anna Brian Clara Daniel David Emma Frank George Hannah Henry Jack James Julia Karen "
    "Laura Linda Lucy Maria Mark Martin Nancy Oliver Oscar Paul Peter Rachel Robert Rose Ruth "
    "Sarah Simon Sophie Steven Thomas Victor Walter William"
).split()
_SHIPS = (
    "Arrow Comet Crown Dragon Eagle Falcon Hawk Lion Moon Phoenix River Rocket Shadow Spirit Star "
    "Storm Swan Thunder Tiger Wolf"
).split()
_FACTS = 4


@named("recall", judges="decoder")
def recall(items: int = 200, seed: int = 0, normalize: str = "nothing") -> MultipleChoice:
    """Who is the captain of a ship, after four sentences that name four ships and their captains?

    The choices are the four captains. Each stands in the prompt once, and the right one is in each
    place equally often on average. Who only repeats names of the prompt is at chance, 1/4.

    Args:
      items: how many.
      seed: of NumPy's generator.
      normalize: as for :class:`MultipleChoice`.

    Example:
      >>> item = recall(1, seed=0).items[0]
      >>> item.prompt.count("captain"), len(item.choices)
      (5, 4)

    Checked against: the facts of its own prompts, tests/eval/tasks/test_made.py.
    """
    random, made = np.random.default_rng(seed), []
    for _ in range(items):
        people = random.choice(_PEOPLE, _FACTS, replace=False).tolist()
        ships = random.choice(_SHIPS, _FACTS, replace=False).tolist()
        answer = int(random.integers(_FACTS))
        facts = [f"The captain of the {s} is {p}. " for s, p in zip(ships, people, strict=True)]
        prompt = f"{''.join(facts)}The captain of the {ships[answer]} is"
        made.append(Choice(prompt, tuple(f" {p}" for p in people), answer))
    return MultipleChoice("recall", tuple(made), normalize)
