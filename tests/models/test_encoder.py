"""Laws of the encoder: what it computes, in NumPy, and the published figures of MiniLM."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from dst import models
from dst.models import Encoder
from tests.pretrained import minilm
from tests.runs import QUICK

SIZES = {"width": 16, "layers": 2, "heads": 4, "hidden": 24}
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 6))
MASK = np.array([[True] * 6, [True] * 4 + [False] * 2])
SENTENCES = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
]
# The page of sentence-transformers/all-MiniLM-L6-v2 and the first page of sbert.net.
PUBLISHED = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]


def _encoder(**changes):
    model = Encoder(6, 11, **{**SIZES, **changes}, rngs=nnx.Rngs(0))
    state, random = nnx.state(model, nnx.Param), np.random.default_rng(1)
    large = jax.tree.map(lambda x: jnp.float32(random.normal(size=x.shape) / 2), state)
    nnx.update(model, large)
    return model


def _run(model, function, *inputs):
    graph, state = nnx.split(model)
    program = jax.jit(lambda s, x: function(nnx.merge(graph, s), *x), compiler_options=QUICK)
    return np.asarray(program(state, inputs))


def _expected(model, tokens, mask, segments):
    """The residual stream in NumPy, one head of one sequence at a time."""
    weights = jax.tree.map(np.float64, nnx.to_pure_dict(nnx.state(model, nnx.Param)))

    def linear(x, w):
        return x @ w["kernel"] + w["bias"]

    def norm(x, w):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + 1e-12) * w["scale"] + w["bias"]

    rows = []
    for own, real, kinds in zip(tokens, mask, segments, strict=True):
        x = weights["embedding"]["embedding"][own] + weights["segments"]["embedding"][kinds]
        x = norm(x + weights["positions"]["embedding"][: len(own)], weights["embedding_norm"])
        for block in weights["blocks"].values():
            parts = [linear(x, block["attention"][n]) for n in ("query", "key", "value")]
            mixed = []
            for q, k, v in zip(*(np.split(p, 4, axis=-1) for p in parts), strict=True):
                scores = np.where(real, q @ k.T / np.sqrt(q.shape[-1]), -np.inf)
                share = np.exp(scores - scores.max(-1, keepdims=True))
                mixed.append(share / share.sum(-1, keepdims=True) @ v)
            attended = linear(np.concatenate(mixed, axis=-1), block["attention"]["output"])
            x = norm(x + attended, block["attention_norm"])
            up = linear(x, block["feed_forward"]["up"])
            hidden = up * (1 + erf(up / np.sqrt(2))) / 2
            down = linear(hidden, block["feed_forward"]["down"])
            x = norm(x + down, block["feed_forward_norm"])
        rows.append(x)
    return np.stack(rows)


def test_the_network_is_what_numpy_computes():
    model, segments = _encoder(), np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    found = _run(model, lambda m, *x: m(*x), TOKENS, MASK, segments)
    expected = _expected(model, TOKENS, MASK, segments)
    np.testing.assert_allclose(found[MASK], expected[MASK], rtol=1e-3, atol=1e-4)


def test_padding_changes_no_embedding():
    model = _encoder()
    other = np.where(MASK, TOKENS, (TOKENS + 3) % 11)
    embed = Encoder.embed
    first, second = (_run(model, embed, x, MASK) for x in (TOKENS, other))
    np.testing.assert_array_equal(first, second)
    short = _run(model, embed, TOKENS[1:, :4])
    np.testing.assert_allclose(first[1:], short, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(first, axis=-1), 1, rtol=1e-5)


def test_the_pooler_reads_the_first_token():
    model = _encoder(pooler=True)
    x = np.random.default_rng(2).normal(size=(2, 3, 16)).astype(np.float32)
    w = model.pooler
    expected = np.tanh(x[:, 0] @ w.kernel.get_value() + np.asarray(w.bias.get_value())[None])
    np.testing.assert_allclose(_run(model, Encoder.pool, x), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"no pooler; embed\(\) needs none"):
        _encoder().pool(jnp.asarray(x))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="heads must divide width, got width 16, heads 3"):
        _encoder(heads=3)
    with pytest.raises(ValueError, match="at most 6 tokens long, got 7"):
        nnx.eval_shape(lambda: _encoder()(jnp.zeros((1, 7), int)))


def test_embeddings_of_minilm_have_the_published_similarities():
    model, tokenizer = models.load(minilm()), models.tokenizer(minilm())
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(SENTENCES)
    tokens, mask = (np.array([getattr(x, n) for x in found]) for n in ("ids", "attention_mask"))
    embeddings = _run(model, Encoder.embed, tokens, mask.astype(bool))
    np.testing.assert_allclose(embeddings @ embeddings.T, PUBLISHED, rtol=0, atol=1e-3)
