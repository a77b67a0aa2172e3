"""Perplexity through a cache: that of the model, or of attention that is masked by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst import eval as judging
from dst import models
from dst.activations.cache import Full, Local, SnapKV, StreamingLLM, perplexity
from tests.activations.cache.models import CONTEXT, POLICIES, TEXTS, WORDS, decoder
from tests.pretrained import smollm2


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_with_a_full_cache_it_is_that_of_the_model(scan, batch):
    model = decoder(scan=scan)
    expected = judging.language(model, TEXTS).perplexity
    np.testing.assert_allclose(perplexity(model, TEXTS, batch=batch), expected, rtol=1e-5)


def losses(logits, texts):
    logits = np.float64(logits)[:, :-1]
    logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logs -= logits.max(-1, keepdims=True)
    return -np.take_along_axis(logs, texts[:, 1:, None], axis=-1)[..., 0]


@pytest.mark.parametrize("prompt", [0, 7])
def test_tokens_of_the_prompt_and_the_one_after_it_are_not_counted(prompt):
    model = decoder()
    expected = np.exp(losses(model(jnp.asarray(TEXTS)), TEXTS)[:, prompt:].mean())
    np.testing.assert_allclose(perplexity(model, TEXTS, prompt=prompt), expected, rtol=1e-5)


def masked(model, texts, window, sinks):
    """The model with a mask over attention: a window and sinks, at the positions of the text."""
    place = np.arange(texts.shape[1])
    near = place[:, None] - place[None] <= window  # the cache, and the token itself
    mask = jnp.asarray(np.tril(near | (place[None] < sinks)))

    def attend(rotary, query, key, value, kept):
        import jax

        query, key = rotary(query), rotary(key)
        return jax.nn.dot_product_attention(query, key, value, mask=mask[None, None]), kept

    return model.logits(model.hidden(jnp.asarray(texts), attend, None)[0])


def test_a_local_window_is_masked_attention():
    model = decoder()
    expected = np.exp(losses(masked(model, TEXTS, window=5, sinks=0), TEXTS).mean())
    np.testing.assert_allclose(perplexity(model, TEXTS, Local(5)), expected, rtol=1e-5)


def test_sinks_alone_turn_the_window_where_nothing_else_is_kept():
    """Without sinks, places inside the cache are those of the text but for a shift."""
    model = decoder()
    found = perplexity(model, TEXTS, StreamingLLM(5, sinks=0))
    np.testing.assert_allclose(found, perplexity(model, TEXTS, Local(5)), rtol=1e-4)
    other = perplexity(model, TEXTS, StreamingLLM(5, sinks=2))
    assert abs(other / found - 1) > 1e-3


def test_windows_beyond_the_context_are_read_where_positions_are_inside_the_cache():
    model, long = decoder(), np.resize(TEXTS, (2, 2 * CONTEXT))
    assert np.isfinite(perplexity(model, long, StreamingLLM(5)))
    with pytest.raises(ValueError, match=f"at most {CONTEXT} tokens long"):
        perplexity(model, long, Local(5))


def test_progress_counts_windows():
    calls = []
    perplexity(decoder(), TEXTS, batch=2, progress=lambda *x: calls.append(x))
    assert calls == [(2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"windows": TEXTS[:, :1]}, "length of windows must be an integer >= 2, got 1"),
        ({"prompt": 15}, "length of windows must be an integer >= 17, got 16"),
        ({"windows": TEXTS[:0]}, "number of windows must be an integer >= 1, got 0"),
        ({"windows": TEXTS + WORDS}, f"tokens must be below {WORDS}"),
        ({"policy": POLICIES["snapkv"]}, "SnapKV needs a prompt of at least 3 tokens, got 0"),
        ({"batch": 0}, "batch must be an integer >= 1, got 0"),
    ],
)
def test_windows_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        perplexity(**{"model": decoder(), "windows": TEXTS, **changes})


def test_an_encoder_is_refused():
    encoder = models.Encoder(16, WORDS, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"must be a dst\.models\.Decoder, .* got Encoder"):
        perplexity(encoder, TEXTS)


@pytest.mark.evidence
def test_smollm2_loses_little_to_half_of_the_entries_and_most_to_a_window():
    model, tokenizer = models.load(smollm2()), models.tokenizer(smollm2())
    text = judging.tokens(tokenizer, judging.sides("topics").held_out)
    windows = judging.consecutive(text, 128, 4)
    dense = perplexity(model, windows, Full(), prompt=63)
    np.testing.assert_allclose(
        perplexity(model, windows), judging.language(model, windows).perplexity, rtol=1e-4
    )
    budget = 32
    found = {
        kind: perplexity(model, windows, policy, prompt=63)
        for kind, policy in {
            "local": Local(budget),
            "streaming_llm": StreamingLLM(budget),
            "snapkv": SnapKV(budget, window=8),
        }.items()
    }
    assert dense < found["streaming_llm"] < found["local"]
    assert found["streaming_llm"] < 3 * dense < found["local"]
