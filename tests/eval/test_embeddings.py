"""Laws of the mean cosine between encoders."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst import eval as judging
from dst.models import Encoder


def encoder(seed, width=8):
    return Encoder(8, 50, width=width, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(seed))


def test_the_mean_cosine_is_that_of_numpy():
    one, other, windows = encoder(0), encoder(1), np.arange(40).reshape(5, 8)
    x, y = (np.asarray(m.embed(jnp.asarray(windows)), np.float64) for m in (one, other))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    expected = ((x * y).sum(1) / norms).mean()
    assert judging.cosine(one, other, windows) == pytest.approx(expected, abs=1e-6)


def test_encoders_of_different_widths_are_refused():
    with pytest.raises(ValueError, match="must have one width, got 8 and 12"):
        judging.cosine(encoder(0), encoder(0, 12), np.arange(16).reshape(2, 8))


def test_embeddings_are_those_of_each_sentence_without_padding():
    model = Encoder(40, 50, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
    sentences = [np.random.default_rng(n).integers(0, 50, n).tolist() for n in (3, 40, 1, 40, 3)]
    calls, alone = [], nnx.jit(lambda model, tokens: model.embed(tokens))
    found = judging.embed(model, sentences, progress=lambda *x: calls.append(x))
    assert found.dtype == np.float32 and calls[-1] == (5, 5)
    for row, tokens in zip(found, sentences, strict=True):
        np.testing.assert_allclose(row, alone(model, jnp.asarray(tokens)[None])[0], atol=1e-5)
    with pytest.raises(ValueError, match="number of sentences must be an integer >= 1, got 0"):
        judging.embed(model, [])


@pytest.mark.parametrize(("sentence", "count"), [([], 0), ([1] * 9, 9)])
def test_sentences_without_tokens_or_longer_than_the_context_are_refused(sentence, count):
    with pytest.raises(ValueError, match=f"sentence 1 must have .* at most 8, .* got {count}"):
        judging.embed(encoder(0), [[1], sentence])
