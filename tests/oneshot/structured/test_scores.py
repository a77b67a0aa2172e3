"""Laws of scores: the formulas, in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dst
import dst.nnx
from dst.oneshot.structured import FLAP, Magnitude, Taylor, Wanda
from tests.oneshot.structured.programs import (
    BLOCKS,
    CHAIN,
    HEADS,
    IMAGES,
    KEYS,
    PROGRAMS,
    SIZE,
    chain,
    images,
    normal,
    results,
)

BATCHES = [normal(9, 5, scale=1.0) for _ in range(2)]


def scores(forward, params, score, batches, **options):
    return dst.remove(params, 0.5, score=score, forward=forward, batches=batches, **options)[1]


def hidden(x):
    """What enters the second and the third layer of the chain, in NumPy."""
    one = 1 / (1 + np.exp(-(x @ CHAIN["layer0"]["kernel"] + CHAIN["layer0"]["bias"])))
    return one, 1 / (1 + np.exp(-(one @ CHAIN["layer1"]["kernel"] + CHAIN["layer1"]["bias"])))


def test_magnitudes_are_sums_over_columns_and_rows():
    removal = dst.remove(CHAIN, 0.5, groups=dst.channel_groups(chain, CHAIN, BATCHES[0]))[1]
    found = removal.scores
    for name, kept in removal.kept.items():
        assert found[name][kept].min() > found[name][~kept].max()
    columns = (CHAIN["layer0"]["kernel"] ** 2).sum(0) + (CHAIN["layer1"]["kernel"] ** 2).sum(1)
    np.testing.assert_allclose(found["layer0/kernel"], columns, rtol=1e-5)


def test_a_head_has_its_parts_of_four_matrices():
    forward, params, batch, _ = PROGRAMS["a list of blocks"]
    found = scores(forward, params, Magnitude(power=1), [batch]).scores["0/k"]
    w = {n: np.abs(BLOCKS[0][n]) for n in "qkvo"}
    expected = w["q"].sum(0).reshape(KEYS, -1).sum(1) + w["o"].sum(1).reshape(KEYS, -1).sum(1)
    expected += (w["k"] + w["v"]).sum(0).reshape(KEYS, -1).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_wanda_weighs_what_reads_a_unit_by_the_norms_of_its_inputs():
    found = scores(chain, CHAIN, Wanda(), BATCHES).scores
    for name, x, w in zip(found, hidden(np.concatenate(BATCHES)), ("layer1", "out"), strict=True):
        expected = np.abs(CHAIN[w]["kernel"]).mean(1) * np.linalg.norm(x, axis=0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)


def test_flap_weighs_what_reads_a_unit_by_the_variance_of_its_inputs():
    found = scores(chain, CHAIN, FLAP(power=1), BATCHES).scores
    for name, x, w in zip(found, hidden(np.concatenate(BATCHES)), ("layer1", "out"), strict=True):
        expected = (CHAIN[w]["kernel"] ** 2).sum(1) * x.var(0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-3)


def test_flap_puts_the_mean_of_what_was_removed_into_the_bias():
    found = scores(chain, CHAIN, FLAP(), BATCHES)
    smaller, masked = found.smaller(CHAIN), found.masked(CHAIN)
    first, second = (~found.kept[x] for x in ("layer0/kernel", "layer1/kernel"))
    one, two = (x.mean(0) for x in hidden(np.concatenate(BATCHES)))
    bias = CHAIN["out"]["bias"] + two[second] @ CHAIN["out"]["kernel"][second]
    np.testing.assert_allclose(smaller["out"]["bias"], bias, rtol=1e-4, atol=1e-5)
    bias = CHAIN["layer1"]["bias"] + one[first] @ CHAIN["layer1"]["kernel"][first]
    np.testing.assert_allclose(smaller["layer1"]["bias"], bias[~second], rtol=1e-4, atol=1e-5)
    x = BATCHES[0]
    one, other = results(chain, (smaller, x), (masked, x))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_scores_of_a_head_are_powers_that_are_added():
    forward, params, batch, _ = PROGRAMS["a list of blocks"]
    only = {"*/k": 0.4}
    one, two = (
        dst.remove(
            params, only, score=FLAP(compensate=False, power=p), forward=forward, batches=[batch]
        )[1].scores["0/k"]
        for p in (1, 2)
    )
    w = BLOCKS[0]["o"]
    mixed = mixed_of(np.asarray(batch, np.float64))
    each = mixed.reshape(-1, HEADS * SIZE).var(0) * (w**2).sum(1)
    np.testing.assert_allclose(one, each.reshape(KEYS, -1).sum(1), rtol=1e-3)
    np.testing.assert_allclose(two, (each**2).reshape(KEYS, -1).sum(1), rtol=1e-3)


def mixed_of(x):
    """What enters the output projection of the first block, in NumPy."""
    w = {n: v.astype(np.float64) for n, v in BLOCKS[0].items()}
    n = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w["scale"]
    q, k, v = ((n @ w[s]).reshape(*x.shape[:2], -1, SIZE) for s in "qkv")
    k, v = (np.repeat(y, HEADS // KEYS, axis=2) for y in (k, v))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / SIZE**0.5
    logits = np.where(np.tril(np.ones(logits.shape[-2:], bool)), logits, -np.inf)
    share = np.exp(logits - logits.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", share, v)


@pytest.mark.parametrize("per", ["weight", "vector"])
def test_taylor_adds_what_the_loss_would_change_by(per):
    def loss(p, x):
        return jnp.square(chain(p, x)).mean()

    found = scores(chain, CHAIN, Taylor(per), BATCHES, loss=loss).scores["layer1/kernel"]
    grads = results(jax.grad(loss), *((CHAIN, x) for x in BATCHES))
    change = {n: np.mean([g[n]["kernel"] for g in grads], 0) * CHAIN[n]["kernel"] for n in CHAIN}
    one, two = change["layer1"], change["out"]
    if per == "weight":
        expected = np.abs(one).sum(0) + np.abs(two).sum(1)
    else:
        expected = np.abs(one.sum(0)) + np.abs(two.sum(1))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_channel_has_all_pixels_that_a_flat_layer_reads():
    x = PROGRAMS["convolutions"][2]
    found = scores(images, IMAGES, Wanda(), [x]).scores["second"]
    identity = np.eye(20, dtype=np.float32)
    (flat,) = results(images, ({**IMAGES, "flat": identity}, x))
    each = np.abs(IMAGES["flat"]).mean(1) * np.linalg.norm(flat, axis=0)
    np.testing.assert_allclose(found, each.reshape(4, 5).sum(0), rtol=1e-4)


def test_flap_of_a_matrix_without_bias_says_what_to_do():
    forward, params, batch, _ = PROGRAMS["a list of blocks"]
    with pytest.raises(ValueError, match="expected a leaf 0/bias of 8 numbers, found none"):
        scores(forward, params, FLAP(), [batch])


def test_flax_layers_get_the_bias_that_flap_needs():
    """The second layer reads units and computes others: its bias shrinks with its columns."""
    rngs = nnx.Rngs(0)
    sizes = ((5, 8), (8, 6), (6, 3))
    first, second, last = (nnx.Linear(*s, use_bias=False, rngs=rngs) for s in sizes)
    model = nnx.Sequential(first, nnx.sigmoid, second, nnx.sigmoid, last)
    smaller, removal = dst.nnx.remove(model, 0.5, score=FLAP(), batches=BATCHES)
    assert smaller.layers[0].bias is None and model.layers[2].bias is None
    x = np.concatenate(BATCHES)
    w = [np.asarray(layer.kernel[...]) for layer in (first, second, last)]
    one = 1 / (1 + np.exp(-(x @ w[0])))
    two = 1 / (1 + np.exp(-(one @ w[1])))
    gone, later = (~removal.kept[f"layers/{i}/kernel"] for i in (0, 2))
    for layer, expected in (
        (smaller.layers[2], (one.mean(0)[gone] @ w[1][gone])[~later]),
        (smaller.layers[4], two.mean(0)[later] @ w[2][later]),
    ):
        np.testing.assert_allclose(layer.bias[...], expected, rtol=1e-4, atol=1e-5)
    assert smaller(x).shape == (18, 3)
