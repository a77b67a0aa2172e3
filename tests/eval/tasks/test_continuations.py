"""Exact recall: an item is right if and only if greedy text is the expected one."""

from __future__ import annotations

import numpy as np
import pytest

from dst.eval import generate
from dst.eval.tasks import Continuation, Continuations
from tests.eval.tiny import WORDS, decoder, letters


def test_what_the_model_says_greedily_is_right_and_nothing_else_is():
    model, words = decoder(2), letters()
    names = {i: x for x, i in WORDS.items()}
    items, expected = [], []
    for prompt in ("The fox", "abc", "x = ", "1 + 1", "Hello", "tree"):
        said = generate(model, np.array(words.encode(prompt).ids), 3).tolist()
        text = words.decode(said)
        if words.encode(prompt + text).ids[-3:] == said:  # bytes that are text
            items.append(Continuation(prompt, text))
            expected.append(1.0)
        other = [said[0], (said[1] + 1) % 94 + 1, said[2]]
        if all(names[x].isascii() for x in other) and other[1] != said[1]:
            items.append(Continuation(prompt, words.decode(other)))
            expected.append(0.0)
    assert set(expected) == {0.0, 1.0}
    task = Continuations("recall", tuple(items))
    found = task.outcomes(model, task.prepare(words, [model]))
    assert found.tolist() == expected and task.chance is None


def test_empty_texts_and_tasks_are_refused():
    with pytest.raises(ValueError, match="continuation must be a text of at least one"):
        Continuation("a", "")
    with pytest.raises(ValueError, match="items must be a list of at least one"):
        Continuations("m", ())
