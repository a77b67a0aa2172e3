"""Perplexity, agreement, KL and greedy text are what NumPy computes from the logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, decoders
from tokenizers import models as kinds

import dst.nnx
from dst import models
from dst.eval import check, generate, language, sparsity
from tests.runs import compilations

WORDS, LENGTH = 23, 9
WINDOWS = np.random.default_rng(0).integers(0, WORDS, (5, LENGTH)).astype(np.int32)


def decoder(seed=0, words=WORDS, **changes):
    sizes = {"width": 16, "layers": 2, "heads": 4, "hidden": 24, **changes}
    model = models.Decoder((16,), words, **sizes, rngs=nnx.Rngs(seed))
    table = model.embedding.embedding
    table.set_value(table.get_value() * 20)  # logits that differ
    return model


def twin(logits, windows):
    """Log-probabilities in float64, and the mean cross-entropy of windows, token by token."""
    logits = np.float64(logits)[:, :-1]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    means = []
    for window, row in zip(windows, logs, strict=True):
        means.append(-sum(row[t, window[t + 1]] for t in range(len(row))) / len(row))
    return logs, np.mean(means)


@pytest.fixture(scope="module")
def pair():
    return decoder(), decoder(1)


@pytest.mark.parametrize("batch", [None, 1, 2, 5])
def test_figures_are_those_of_numpy_whatever_the_batch(batch, pair):
    model, dense = pair
    (logs, loss), (others, other) = (twin(x(jnp.asarray(WINDOWS)), WINDOWS) for x in pair)
    found = language(model, WINDOWS, against=dense, batch=batch)
    np.testing.assert_allclose(found.perplexity, np.exp(loss), rtol=1e-5)
    np.testing.assert_allclose(found.against.perplexity, np.exp(other), rtol=1e-5)
    agreement = (logs.argmax(-1) == others.argmax(-1)).mean()
    np.testing.assert_allclose(found.agreement, agreement, rtol=1e-6)
    np.testing.assert_allclose(found.kl, (np.exp(others) * (others - logs)).sum(-1).mean(), 1e-4)
    assert 0 < found.agreement < 1 and found.kl > 0.1
    assert found.tokens == found.against.tokens == 5 * (LENGTH - 1)
    assert found.bits_per_byte is None and found.against.kl is None


def test_a_model_agrees_with_itself_and_alone_has_the_same_perplexity(pair):
    found = language(pair[0], WINDOWS, against=pair[0])
    assert found.agreement == 1 and abs(found.kl) < 1e-6
    alone = language(pair[0], WINDOWS)
    assert alone.perplexity == found.perplexity == found.against.perplexity
    assert alone.against is alone.agreement is alone.kl is None


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary():
    model = decoder()
    model.final_norm.scale.set_value(jnp.zeros(16))
    np.testing.assert_allclose(language(model, WINDOWS).perplexity, WORDS, rtol=1e-5)


def test_bits_per_byte_count_the_bytes_of_predicted_tokens():
    words = [chr(ord("a") + i) * (i % 3 + 1) for i in range(WORDS)]
    made = Tokenizer(kinds.BPE(vocab={x: i for i, x in enumerate(words)}, merges=[]))
    made.decoder = decoders.ByteLevel()
    found = language(decoder(), WINDOWS, tokenizer=made)
    size = sum(len(words[x]) for x in WINDOWS[:, 1:].ravel())
    bits = np.log2(found.perplexity) * found.tokens / size
    np.testing.assert_allclose(found.bits_per_byte, bits, rtol=1e-6)


def test_weights_of_another_model_of_the_same_structure_compile_nothing(pair):
    language(pair[0], WINDOWS, batch=2)
    changed = nnx.clone(pair[0])
    dst.nnx.prune(changed, 0.5, attach_masks=False)
    with compilations() as new:
        found = language(changed, WINDOWS, batch=2)
    assert new.count == 0 and found.perplexity != language(pair[0], WINDOWS, batch=2).perplexity


def test_progress_counts_windows(pair):
    calls = []
    language(pair[0], WINDOWS, batch=2, progress=lambda *x: calls.append(x))
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_logits_of_half_precision_are_judged_in_float32(pair):
    half = decoder()
    nnx.update(half, jax.tree.map(lambda x: x.astype("bfloat16"), nnx.state(half)))
    found = language(half, WINDOWS, against=pair[0])
    assert 0 < found.kl < 0.1 and found.agreement > 0.8


@pytest.mark.parametrize("scan", [False, True])
def test_greedy_text_is_the_best_token_of_ever_longer_prefixes(scan):
    model, found = decoder(scan=scan, layers=1), [3, 1]
    for _ in range(6):
        found.append(int(model(jnp.asarray(found)[None])[0, -1].argmax()))
    continued = generate(model, np.array([3, 1]), 6)
    assert continued.tolist() == found[2:] and continued.dtype == np.int32


@pytest.mark.parametrize("scan", [False, True])
def test_sparsity_counts_the_zeros_that_pruning_made(scan):
    model = decoder(scan=scan)
    assert sparsity(model) == 0
    masks = dst.nnx.prune(model, 0.6, attach_masks=False)
    weights = np.concatenate([np.ravel(x) for x in masks.values()])
    np.testing.assert_allclose(sparsity(model), 1 - weights.mean(), rtol=1e-9)
    assert len(masks) == (7 if scan else 14)


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        (np.zeros((1, 17), int), "at most 16 tokens long, the context of the model, got 17"),
        (np.zeros((1, 1), int), "length of windows must be an integer >= 2, got 1"),
        (np.zeros((0, 4), int), "number of windows must be an integer >= 1, got 0"),
        (np.full((1, 4), WORDS), f"below {WORDS}, the size of the vocabulary, found {WORDS}. Is"),
    ],
)
def test_windows_that_do_not_fit_the_model_are_refused(windows, words, pair):
    with pytest.raises(ValueError, match=words):
        language(pair[0], windows)


def test_models_that_cannot_be_judged_are_refused(pair):
    encoder = models.Encoder(16, WORDS, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must predict the next token, .* got an encoder"):
        check(WINDOWS, encoder)
    with pytest.raises(ValueError, match=r"the same vocabulary, got \[23, 24\] tokens"):
        language(pair[0], WINDOWS, against=decoder(words=24))
    with pytest.raises(ValueError, match="batch must be an integer >= 1, got 0"):
        language(pair[0], WINDOWS, batch=0)
    with pytest.raises(ValueError, match="at most 16 tokens long"):
        generate(pair[0], np.array([1, 2]), 15)
