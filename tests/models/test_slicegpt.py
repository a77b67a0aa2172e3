"""Laws of slicing: a rotation changes nothing, and principal components lose least."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dst.nnx
from dst import models
from dst.models import MLP, Decoder, slicegpt
from dst.models.biases import add_biases
from dst.models.slicegpt import components, sliced
from tests.runs import QUICK

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 11, (2, 6))
SIZES = {"width": 12, "layers": 2, "heads": 6, "kv_heads": 2, "head_size": 2, "hidden": 16}


def decoder(**changes):
    """With norms whose scales are not one."""
    model = Decoder((6,), 11, **{**SIZES, **changes}, rngs=nnx.Rngs(0))
    norms = [x for b in model.blocks for x in (b.attention_norm, b.feed_forward_norm)]
    for norm in (*norms, model.final_norm):
        norm.scale[...] = RANDOM.uniform(0.5, 2, 12).astype(np.float32)
    return model


def logits(model):
    graph, state = nnx.split(model)
    program = jax.jit(lambda s, x: nnx.merge(graph, s)(x), compiler_options=QUICK)
    return np.asarray(program(state, TOKENS))


@pytest.mark.parametrize("changes", [{}, {"tied": False, "bias": True}])
def test_a_rotation_changes_no_logits(changes):
    model = decoder(**changes)
    rotated = sliced(model, 0, [TOKENS])
    np.testing.assert_allclose(logits(rotated), logits(model), atol=1e-4)
    one, other = (x.blocks[0].attention.query.kernel[...] for x in (rotated, model))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("parts", [(True, False), (False, True), (True, True)])
def test_biases_of_every_projection_are_rotated_with_it(parts):
    model = decoder()
    add_biases(model, attention=parts[0], feed_forward=parts[1])
    for block in model.blocks:
        part, hidden = block.attention, block.feed_forward
        every = (part.query, part.key, part.value, part.output, hidden.gate, hidden.up, hidden.down)
        for layer in every:
            if layer.bias is not None:
                layer.bias[...] = RANDOM.normal(size=layer.bias.shape).astype(np.float32)
    rotated = sliced(model, 0, [TOKENS])
    np.testing.assert_allclose(logits(rotated), logits(model), atol=1e-4)
    assert (rotated.blocks[0].feed_forward.down.bias is not None) == parts[1]


@pytest.mark.parametrize(
    ("fraction", "multiple", "kept"), [(0.25, 1, 9), (0.3, 1, 8), (0.3, 4, 8), (0.34, 1, 7)]
)
def test_the_new_width_is_at_most_what_the_fraction_leaves(fraction, multiple, kept):
    assert sliced(decoder(), fraction, [TOKENS], multiple=multiple).embedding.features == kept


def test_components_are_orthogonal_and_of_descending_variance():
    model = decoder()
    found = components(model, [TOKENS])
    np.testing.assert_allclose(found.T @ found, np.eye(12), atol=1e-10)
    tokens = jnp.asarray(TOKENS)
    streams = [model.embedding(tokens), *model.hidden_states(tokens)]
    x = np.concatenate([np.asarray(s, np.float64).reshape(-1, 12) for s in streams])
    x /= np.sqrt((x * x).mean(1, keepdims=True) + model.epsilon)
    shares = ((x @ found) ** 2).sum(0)
    assert (np.diff(shares) <= 1e-6).all()
    np.testing.assert_allclose(shares.sum(), (x * x).sum(), rtol=1e-6)


def test_streams_of_low_rank_are_sliced_without_loss(monkeypatch):
    """Weights that use six directions of twelve: the others can go."""
    model = decoder()
    basis = np.linalg.qr(RANDOM.normal(size=(12, 12)))[0][:, :6]
    inside = (basis @ basis.T).astype(np.float32)
    model.embedding.embedding[...] = model.embedding.embedding[...] @ inside
    for block in model.blocks:
        for layer in (block.attention.output, block.feed_forward.down):
            layer.kernel[...] = layer.kernel[...] @ inside
    small = sliced(model, 0.5, [TOKENS])
    assert small.embedding.features == 6
    np.testing.assert_allclose(logits(small), logits(model), atol=1e-4)

    other = np.linalg.qr(RANDOM.normal(size=(12, 12)))[0]
    monkeypatch.setattr(slicegpt, "components", lambda *_: other)
    random = sliced(model, 0.5, [TOKENS])
    assert np.abs(logits(random) - logits(model)).max() > 0.01


def test_cost_and_file_are_those_of_the_new_width(tmp_path):
    small = sliced(decoder(), 0.3, [TOKENS], multiple=4)
    built = Decoder((6,), 11, **{**SIZES, "width": 8, "tied": False}, rngs=nnx.Rngs(0))
    one, other = (dst.nnx.costs(x, TOKENS[:1]).forward() for x in (small, built))
    assert one == other
    models.save(tmp_path / "small", small)
    np.testing.assert_allclose(logits(models.load(tmp_path / "small")), logits(small), atol=1e-6)


@pytest.mark.parametrize(
    ("slice", "arguments", "words"),
    [
        (sliced, (1.0, [TOKENS]), r"fraction must be a number in \[0, 1\)"),
        (partial(sliced, multiple=8), (0.5, [TOKENS]), "at least one of 12 channels to be left"),
        (sliced, (0.5, []), "finite streams, got no batches"),
    ],
)
def test_what_cannot_be_done_says_so(slice, arguments, words):
    with pytest.raises(ValueError, match=words):
        slice(decoder(), *arguments)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="got MLP"):
        sliced(MLP((4,), 2, rngs=nnx.Rngs(0)), 0.5, [TOKENS])
    stacked = Decoder((6,), 11, **SIZES, scan=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="got stacked blocks"):
        sliced(stacked, 0.5, [TOKENS])
