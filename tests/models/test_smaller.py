"""Laws of smaller decoders: logits of the masked model, sizes, files and messages."""

from __future__ import annotations

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dst
import dst.nnx
from dst import models
from dst.models import MLP, Decoder, smaller
from dst.models.smaller_decoder import decoder_groups
from dst.oneshot.structured import FLAP, Taylor, Wanda
from tests.runs import QUICK

SIZES = {"width": 12, "layers": 2, "heads": 6, "kv_heads": 2, "hidden": 16}
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 6))
CALIBRATION = [np.random.default_rng(i).integers(0, 11, (2, 6)) for i in (1, 2)]


@cache
def decoder(**changes):
    return Decoder((6,), 11, **{**SIZES, **changes}, rngs=nnx.Rngs(0))


def logits(model):
    graph, state = nnx.split(model)
    program = jax.jit(lambda s, x: nnx.merge(graph, s)(x), compiler_options=QUICK)
    return np.asarray(program(state, TOKENS))


def masked(model, removal):
    graph, params = nnx.split(model)
    return nnx.merge(graph, removal.masked(params))


CASES = {
    "neurons": ({}, {"neurons": 0.25}, (6, 2, 12)),
    "queries": ({}, {"heads": 1 / 3}, (4, 2, 16)),
    "keys": ({"bias": True}, {"kv_heads": 0.5}, (3, 1, 16)),
    "both": ({}, {"neurons": 0.5, "heads": 0.7}, (2, 2, 8)),
    "stacked": ({"scan": True, "bias": True}, {"neurons": 0.25, "heads": 0.4}, (4, 2, 12)),
    "head size": ({"head_size": 4, "tied": False}, {"kv_heads": 0.5}, (3, 1, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_masked_model(name):
    changes, fractions, sizes = CASES[name]
    model = decoder(**changes)
    found, removal = smaller(model, **fractions)
    block = found.blocks if found.scan else found.blocks[1]
    part = block.attention
    assert (part.heads, part.kv_heads, block.feed_forward.up.out_features) == sizes
    one, other, dense = logits(found), logits(masked(model, removal)), logits(model)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(one - dense).max() > 1e-3


def test_every_key_keeps_equally_many_queries_of_its_own():
    _, removal = smaller(decoder(), heads=0.4)
    for kept in removal.kept.values():
        assert kept.reshape(2, 3).sum(1).tolist() == [2, 2]


def test_the_cost_is_that_of_a_decoder_built_with_these_sizes():
    found, _ = smaller(decoder(head_size=2), neurons=0.25, heads=0.4)
    built = decoder(head_size=2, hidden=12, heads=4)
    one, other, dense = (
        dst.nnx.costs(x, TOKENS[:1]).forward() for x in (found, built, decoder(head_size=2))
    )
    assert one == other < dense
    shapes = [
        jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(x, nnx.Param))) for x in (found, built)
    ]
    assert shapes[0] == shapes[1]


def test_groups_of_neurons_and_of_keys_are_those_that_the_program_has():
    model = decoder()
    graph, params = nnx.split(model)
    found = dst.channel_groups(lambda p, x: nnx.merge(graph, p)(x), params, TOKENS)

    def parts(groups):
        return {
            frozenset((x.path, x.axis, x.consumes, x.positions.tobytes()) for x in group.members)
            for group in groups
        }

    assert parts(found) == parts(decoder_groups(model, "neurons", "kv_heads"))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("score", [Wanda(), FLAP(), Taylor()], ids=lambda x: type(x).__name__)
def test_a_saved_model_comes_back_with_its_sizes_and_logits(score, scan, tmp_path):
    found, _ = smaller(
        decoder(scan=scan), neurons=0.25, heads=0.4, score=score, batches=CALIBRATION
    )
    models.save(tmp_path / "small", found)
    entries = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (entries["intermediate_size"], entries["num_attention_heads"]) == (12, 4)
    assert entries["attention_bias"] == entries["mlp_bias"] == isinstance(score, FLAP)
    again = models.load(tmp_path / "small")
    np.testing.assert_allclose(logits(again), logits(found), atol=1e-6)


def test_flap_keeps_the_mean_output_of_a_layer_whose_inputs_are_the_same():
    model, found = decoder(), {}
    tokens = jnp.asarray(TOKENS)
    first = model.blocks[0]
    x = model.embedding(tokens)
    x = first.feed_forward_norm(x + first.attention(first.attention_norm(x)))
    dense = np.asarray(first.feed_forward(x)).mean((0, 1))
    for compensate in (True, False):
        score = FLAP(compensate=compensate)
        one, _ = smaller(model, neurons=0.5, score=score, batches=[TOKENS])
        found[compensate] = np.asarray(one.blocks[0].feed_forward(x)).mean((0, 1))
    np.testing.assert_allclose(found[True], dense, atol=1e-6)
    assert np.abs(found[False] - dense).max() > 1e-4


def test_nothing_is_removed_without_a_fraction():
    model = decoder()
    np.testing.assert_array_equal(logits(smaller(model)[0]), logits(model))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"neurons": 1.0}, r"neurons must be a number in \[0, 1\)"),
        ({"heads": -1}, "heads must be a number"),
        ({"heads": 0.5, "kv_heads": 0.5}, "expected heads or kv_heads, got both"),
        ({"heads": 0.25}, "at least 1/3, as a block has 3 queries of each key, got 0.25"),
        ({"kv_heads": 0.4}, "at least 1/2, as a block has 2 heads of keys and values"),
        ({"neurons": 0.01}, "at least 1/16, as a block has 16 neurons"),
        ({"neurons": 0.5, "score": Wanda()}, "Wanda looks at calibration data"),
    ],
)
def test_what_cannot_be_done_says_so(arguments, words):
    with pytest.raises(ValueError, match=words):
        smaller(decoder(), **arguments)


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="expected a dst.models.Decoder, got MLP"):
        smaller(MLP((4,), 2, rngs=nnx.Rngs(0)), neurons=0.5)
