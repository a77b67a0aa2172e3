"""Pairs of sentences: recall and correlation are those of single embeddings in NumPy and SciPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from dst.eval import tasks
from dst.eval.tasks import Pair, Retrieval, Similarity
from dst.eval.tasks import pairs as module
from tests.eval.tiny import decoder, encoder, letters

RANDOM = np.random.default_rng(0)
TEXTS = ["".join(RANDOM.choice(list("abcdefgh "), n)) for n in [4, 20, 43] * 8]
SCORES = RANDOM.integers(0, 5, 12).tolist()


# Compiled once for each length.
_embed = nnx.jit(lambda model, tokens: model.embed(tokens))


def alone(model, text):
    """The embedding of one sentence without padding."""
    found = np.float64(_embed(model, jnp.asarray(letters().encode(text).ids)[None])[0])
    return found / np.linalg.norm(found)


@pytest.fixture(scope="module")
def model():
    return encoder()


@pytest.fixture(scope="module")
def embedded(model):
    found = np.array([alone(model, x) for x in TEXTS])
    return found[:12], found[12:]


def pairs(scores=None):
    scores = [None] * 12 if scores is None else scores
    return tuple(map(Pair, TEXTS[:12], TEXTS[12:], scores))


def test_recall_is_that_of_numpy(model, embedded):
    first, second = embedded
    expected = [float(np.argmax(second @ x) == i) for i, x in enumerate(first)]
    task = Retrieval("r", pairs())
    found = task.outcomes(model, task.prepare(letters(), [model]))
    np.testing.assert_array_equal(found, expected)
    assert task.chance == 1 / 12
    same = Retrieval("r", tuple(Pair(x, x) for x in TEXTS))
    assert same.outcomes(model, same.prepare(letters(), [model])).tolist() == [1] * 24


def test_an_encoder_that_maps_all_to_one_is_at_chance_exactly(model):
    task = Retrieval("r", pairs())

    def constant(*args, **options):
        return np.ones((24, 3), np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "embed", constant)
        found = task.outcomes(model, task.prepare(letters(), [model]))
    np.testing.assert_allclose(found, 1 / 12)


def test_the_correlation_is_that_of_scipy(model, embedded):
    first, second = embedded
    expected = stats.spearmanr((first * second).sum(1), SCORES).statistic
    result = tasks.judge(Similarity("s", pairs(SCORES)), model, letters(), against=encoder(1))
    np.testing.assert_allclose(result.model.value, expected, rtol=1e-9)
    assert result.model.low < expected < result.model.high and result.chance == 0
    difference = result.model.value - result.against.value
    assert result.difference.value == difference != 0
    assert result.difference.low < difference < result.difference.high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Pair("", "b"), "first must be a text"),
        (lambda: Pair("a", "b", float("nan")), "score must be a finite number, got nan"),
        (lambda: Pair("a", "b", True), "score must be a finite number, got True"),
        (lambda: Retrieval("r", (Pair("a", "b"),)), "at least two pairs, got one"),
        (lambda: Retrieval("r", (Pair("a", "b"), Pair("c", "b"))), "item 2 has that of item 1"),
        (lambda: Similarity("s", (Pair("a", "b", 1),) * 2), "at least three pairs, got 2"),
        (lambda: Similarity("s", (Pair("a", "b", 1),) * 3), "different scores"),
        (lambda: Similarity("s", pairs()), "item 1 has none"),
        (
            lambda: Retrieval("r", pairs()).prepare(letters(), [decoder()]),
            "task r judges models of the kind encoder, got the decoder Decoder",
        ),
        (
            lambda: Retrieval("r", pairs()).prepare(letters(), [encoder(context=4)]),
            r"task r: item \d+ has \d+ tokens, but the context of the model has 4",
        ),
        (
            lambda: Retrieval("r", pairs()).prepare(letters([("a", "b")]), [encoder()]),
            "tokens must be below 256, the size of the vocabulary, found 256",
        ),
    ],
)
def test_bad_pairs_and_models_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
