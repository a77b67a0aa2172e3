"""Text with a full cache is the text without one, and no token compiles anything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst import eval as judging
from dst import models
from dst.activations.cache import Full, Local, StreamingLLM, decode, generate, prefill
from tests.activations.cache.models import CONTEXT, POLICIES, READERS, TEXTS, WORDS, decoder
from tests.pretrained import smollm2
from tests.runs import compilations


@pytest.mark.parametrize("prompt", [None, 0, 2])
@pytest.mark.parametrize(
    "changes",
    [{}, {"scan": True}, {"kv_heads": 4, "bias": True}, {"kv_heads": 1, "tied": False}],
    ids=["blocks", "scanned", "bias", "untied"],
)
def test_the_full_cache_generates_the_same_tokens_as_no_cache(changes, prompt):
    model = decoder(**changes)
    for text in TEXTS[:, :5]:
        expected = judging.generate(model, text, 15)
        assert len(set(expected.tolist())) > 3  # no token over and over
        assert generate(model, text, 15, prompt=prompt).tolist() == expected.tolist()


def test_texts_of_a_batch_are_continued_as_each_alone():
    model = decoder()
    together = generate(model, TEXTS[:, :5], 8, POLICIES["h2o"])
    alone = [generate(model, x, 8, POLICIES["h2o"]) for x in TEXTS[:, :5]]
    assert together.tolist() == np.array(alone).tolist() and together.dtype == np.int32


@pytest.mark.parametrize("kind", [*POLICIES, *READERS])
def test_one_program_reads_every_token(kind):
    model, policy = decoder(), {**POLICIES, **READERS}[kind]
    logits, cache = prefill(model, jnp.asarray(TEXTS[:, :8]), policy, CONTEXT)
    logits, cache = decode(model, logits.argmax(-1), cache)
    with compilations() as new:
        for _ in range(10):
            logits, cache = decode(model, logits.argmax(-1), cache)
    assert new.count == 0
    other = decoder(1)  # of the same structure
    _, cache = prefill(other, jnp.asarray(TEXTS[:, :8]), policy, CONTEXT)
    with compilations() as new:
        decode(other, logits.argmax(-1), cache)
    assert new.count == 0


def test_positions_inside_the_cache_go_on_beyond_the_context():
    policy = StreamingLLM(5, sinks=1)
    model = decoder()
    long = generate(model, TEXTS[0, :4], 3 * CONTEXT, policy)
    assert len(long) == 3 * CONTEXT
    short = generate(model, TEXTS[0, :4], 10, policy)
    assert long[:10].tolist() == short.tolist()
    with pytest.raises(ValueError, match=f"at most {CONTEXT} tokens long.* got {CONTEXT + 1}"):
        generate(model, TEXTS[0, :4], CONTEXT - 3, Local(5))


def test_drawn_tokens_follow_the_softmax():
    """One step from the same text, many times: frequencies are the probabilities."""
    model, text = decoder(), np.tile(TEXTS[:1, :5], (4000, 1))
    drawn = generate(model, text, 1, key=jax.random.key(0), temperature=30.0)[:, 0]
    logits = np.float64(model(jnp.asarray(text[:1]))[0, -1]) / 30
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    found = np.bincount(drawn, minlength=WORDS) / len(drawn)
    assert chances.max() < 0.5
    assert (np.abs(found - chances) < 4 * np.sqrt(chances / len(drawn))).all()


def test_draws_repeat_with_their_key_alone():
    model = decoder()
    options = {"policy": Full(), "temperature": 50.0}
    first, second, other = (
        generate(model, TEXTS[0, :5], 12, key=jax.random.key(i), **options).tolist()
        for i in (0, 0, 1)
    )
    assert first == second != other


def refuse(words, error=ValueError, **changes):
    given = {"model": decoder(), "tokens": TEXTS[0, :5], "count": 4, **changes}
    with pytest.raises(error, match=words):
        generate(**given)


def test_what_cannot_be_generated_is_refused():
    encoder = models.Encoder(16, WORDS, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
    refuse("must be a dst.models.Decoder, .* got Encoder. dst.models.load", model=encoder)
    refuse("must be a dst.models.Decoder, .* got dict", model={})
    refuse("one of dst.activations.cache, such as .* got 'h2o'", TypeError, policy="h2o")
    refuse("one of dst.activations.cache, such as", TypeError, policy=Full)
    refuse(
        f"the budget must be at most {CONTEXT} entries, .* got {CONTEXT + 1}. Full",
        policy=Local(CONTEXT + 1),
    )
    refuse(
        f"budget must be below {CONTEXT} entries, .* got {CONTEXT}", policy=StreamingLLM(CONTEXT)
    )
    refuse(
        f"at most {CONTEXT} tokens long, the context of the model, got {CONTEXT + 1}",
        count=CONTEXT - 4,
    )
    refuse(
        f"prompt must be at most {CONTEXT} tokens long, .* got {CONTEXT + 1}",
        tokens=np.zeros(CONTEXT + 1, int),
        policy=StreamingLLM(5),
    )
    refuse(
        "SnapKV needs a prompt of at least 3 tokens, got 2",
        policy=POLICIES["snapkv"],
        tokens=TEXTS[0, :2],
    )
    refuse("SnapKV needs a prompt of at least 3 tokens, got 0", policy=POLICIES["snapkv"], prompt=0)
    refuse("prompt must be an integer >= 0 and <= 5, got 6", prompt=6)
    refuse("count must be an integer >= 1, got 0", count=0)
    refuse("length of the text must be an integer >= 1, got 0", tokens=np.zeros(0, int))
    refuse("temperature must be a finite number > 0, got 0", temperature=0)
    refuse(f"tokens must be below {WORDS}, .* found {WORDS}", tokens=np.array([WORDS]))


@pytest.mark.evidence
def test_smollm2_continues_with_a_full_cache_as_without_one():
    model, tokenizer = models.load(smollm2()), models.tokenizer(smollm2())
    for text in ("The capital of France is", "def fibonacci(n):\n", "Once upon a time,"):
        tokens = np.array(tokenizer.encode(text).ids)
        assert generate(model, tokens, 32).tolist() == judging.generate(model, tokens, 32).tolist()
