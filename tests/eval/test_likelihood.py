"""Likelihoods of continuations are those of the logits of whole texts."""

from __future__ import annotations

import numpy as np
import pytest

from dst.eval import likelihood
from dst.eval.likelihood import divided, likelihoods
from tests.eval.tiny import decoder, letters, log_probability


@pytest.fixture(scope="module")
def model():
    return decoder(context=24, words=29)


def test_likelihoods_are_those_of_numpy_whatever_the_batch(model):
    random = np.random.default_rng(0)
    requests = [
        (random.integers(0, 29, n).tolist(), random.integers(0, 29, m).tolist())
        for n, m in [(1, 1), (5, 3), (20, 4), (3, 7)]
    ]
    prompt = random.integers(0, 29, 6).tolist()
    requests += [(prompt, [x]) for x in range(20)]  # more than share a row
    expected = [log_probability(model, *x) for x in requests]
    calls = []
    for batch in (2, 8):
        found = likelihoods(model, requests, batch=batch, progress=lambda *x: calls.append(x))
        np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=1e-4)
        assert [x for _, x in found] == [x for _, x in expected]
    assert calls[-1] == (24, 24) and len({x for x, _ in calls}) > 2


def test_one_continuation_is_greedy_and_probabilities_sum_to_one(model):
    found = likelihoods(model, [([3, 1], [x]) for x in range(29)])
    assert sum(greedy for _, greedy in found) == 1
    np.testing.assert_allclose(sum(np.exp(x) for x, _ in found), 1, rtol=1e-5)
    assert max(found)[1]


def test_continuations_of_one_text_share_a_forward_pass():
    requests = [([1, 2, 3], [x]) for x in range(5)] + [([1, 2], [3, 9]), ([7], [8])]
    rows = likelihood._rows(requests, 8)
    assert rows == [((1, 2, 3), [0, 1, 2, 3, 4, 5]), ((7,), [6])]


def test_of_long_texts_the_last_tokens_count(model):
    random = np.random.default_rng(1)
    before, following = random.integers(0, 29, 40).tolist(), [5, 7, 2]
    (found,) = likelihoods(model, [(before, following)])
    expected = log_probability(model, before[-22:], following)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (([], [1]), "request 1: expected a context of at least one token, found none"),
        (([1], [29]), "tokens must be below 29, the size of the vocabulary, found 29"),
        (([-1], [2]), "tokens must be"),
    ],
)
def test_requests_that_have_no_likelihood_are_refused(model, request_, words):
    with pytest.raises(ValueError, match=words):
        likelihoods(model, [([1], [2]), request_])


def test_tokens_over_the_border_of_a_prompt_belong_to_what_follows():
    words = letters([("(", ")"), ("a", "b")])
    both = {x: words.encode(x).ids for x in ("(", ")", "()", "]", "x", "a", "ab", "b")}
    before, rests = divided(words, "x(", [")", "]"])
    assert before == both["x"] and rests == [both["()"], both["("] + both["]"]]
    before, rests = divided(words, "x(", ["a", "ab"])
    assert before == both["x"] + both["("] and rests == [both["a"], both["ab"]]
    with pytest.raises(ValueError, match="at least one token in front"):
        divided(words, "(", [")", "]"])
