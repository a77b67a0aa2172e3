"""Sparse activations of SmolLM2: held-out text has the zeros that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from dst import activations, models
from dst import eval as judging
from dst.activations.sites import MATRICES
from tests.pretrained import smollm2

METHODS = [activations.TEAL, activations.CATS, activations.CHESS, activations.TopK]


@pytest.fixture(scope="module")
def model():
    return models.load(smollm2(), scan=True)


@pytest.fixture(scope="module")
def windows():
    """Those that calibrate, and those that judge."""
    words, sides = models.tokenizer(smollm2()), judging.sides("topics")
    drawn = judging.drawn(judging.tokens(words, sides.calibration), 256, 16, seed=0)
    return drawn, judging.consecutive(judging.tokens(words, sides.held_out), 256, 16)


@pytest.mark.evidence
@pytest.mark.parametrize("method", METHODS, ids=lambda x: x.__name__)
def test_zeros_on_held_out_text_are_within_two_points_of_the_target(model, windows, method):
    calibration, held_out = windows
    losses = []
    for target in (0.25, 0.4, 0.5):
        activations.apply(model, method(target), np.split(calibration, 2))
        found = activations.measure(model, np.split(held_out, 2))
        for name in MATRICES:
            zeros = found[name].mean()
            assert abs(zeros - (target if name in method.matrices else 0)) < 0.02, (name, zeros)
        losses.append(judging.language(model, held_out[:4]).perplexity)
    activations.remove(model)
    dense = judging.language(model, held_out[:4]).perplexity
    assert dense < losses[0] * 1.01 and losses[0] < losses[1] < losses[2] < 2 * dense


@pytest.mark.evidence
def test_perplexity_rises_by_one_percent_where_that_is_asked_for(model, windows):
    batches = [windows[0][:8]]
    dense = activations.Calibration(model, batches).loss()
    zeros = activations.apply(model, activations.PPL(1.0, tolerance=1e-3), batches)["down"]
    ratio = np.exp(activations.Calibration(model, batches).loss() - dense)
    activations.remove(model)
    assert 1.005 < ratio < 1.01 and 0.1 < zeros.mean() < 0.9
