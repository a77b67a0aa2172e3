"""A model beside the dense model: figures of NumPy, and exact zeros beside itself."""

from __future__ import annotations

import numpy as np
import pytest

from dst.eval import tasks
from dst.eval.intervals import wilson
from tests.eval.tiny import decoder, encoder, letters


@pytest.fixture(scope="module")
def task():
    return tasks.find("closing", items=60, seed=1)


def test_a_model_beside_itself_differs_by_exactly_zero(task):
    found = tasks.judge(task, decoder(0), letters(), against=decoder(0))
    assert found.model == found.against
    assert found.difference == tasks.Figure(0.0, 0.0, 0.0)


def test_figures_are_those_of_the_outcomes(task):
    words, pair, calls = letters(), [decoder(0), decoder(1)], []
    prepared = task.prepare(words, pair)
    one, other = (task.outcomes(x, prepared) for x in pair)
    found = tasks.judge(
        task, *pair[:1], words, against=pair[1], progress=lambda *x: calls.append(x)
    )
    assert (found.task, found.measure, found.items, found.chance) == (
        "closing",
        "accuracy",
        60,
        0.25,
    )
    for figure, outcomes in zip((found.model, found.against), (one, other), strict=True):
        assert figure.value == pytest.approx(outcomes.mean())
        assert (figure.low, figure.high) == pytest.approx(wilson(outcomes.mean(), 60))
    difference = (one - other).mean()
    error = (one - other).std() / np.sqrt(60)
    assert error > 0.02 and found.difference.value == pytest.approx(difference)
    ends = difference + np.array([-1, 1]) * 1.96 * error
    np.testing.assert_allclose((found.difference.low, found.difference.high), ends, atol=error / 4)
    assert calls[-1][0] == calls[-1][1] == 240
    alone = tasks.judge(task, pair[0], words)
    assert alone.model == found.model and alone.against is alone.difference is None


def test_a_dense_model_of_another_kind_or_vocabulary_is_refused(task):
    with pytest.raises(ValueError, match="task closing judges models of the kind decoder, got the"):
        tasks.judge(task, decoder(), letters(), against=encoder())
    with pytest.raises(ValueError, match=r"the same vocabulary, got \[256, 300\]"):
        tasks.judge(task, decoder(), letters(), against=decoder(words=300))
