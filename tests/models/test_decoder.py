"""Laws of the decoder: what it computes, in NumPy; and what sparse training sees of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx
from dst.models import Decoder
from dst.models.decoder import ACTIVATIONS
from dst.models.decoder_block import Attention, SwiGLU, causal
from dst.models.rotary import Rotary
from tests.runs import QUICK

SIZES = {"width": 16, "layers": 2, "heads": 4, "hidden": 24}
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 6))


def _decoder(**changes):
    return Decoder((6,), 11, **{**SIZES, **changes}, rngs=nnx.Rngs(0))


def _run(model, inputs):
    graphdef, state = nnx.split(model)
    program = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x), compiler_options=QUICK)
    return np.asarray(program(state, inputs))


def _rotated(x, base=10_000.0, factors=1.0):
    """The paper's form: complex numbers times ``exp(i t theta)``."""
    half = x.shape[-1] // 2
    theta = base ** (-2 * np.arange(half) / x.shape[-1]) / factors
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(
        1j * np.arange(x.shape[1])[:, None, None] * theta
    )
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _attended(x, weights, biases, heads, kv_heads, size):
    """Causal attention in loops, one query at a time."""
    batch, length, _ = x.shape
    parts = {n: (x @ weights[n] + biases[n]).reshape(batch, length, -1, size) for n in "qkv"}
    query, key = _rotated(parts["q"]), _rotated(parts["k"])
    heads_out = np.zeros((batch, length, heads, size))
    for b in range(batch):
        for h in range(heads):
            shared = h // (heads // kv_heads)
            for t in range(length):
                scores = key[b, : t + 1, shared] @ query[b, t, h] / np.sqrt(size)
                share = np.exp(scores - scores.max())
                heads_out[b, t, h] = (share / share.sum()) @ parts["v"][b, : t + 1, shared]
    return heads_out.reshape(batch, length, -1) @ weights["o"]


@pytest.mark.parametrize("base", [10_000.0, 100_000.0])
@pytest.mark.parametrize("factors", [None, (1.0, 2.0, 5.0, 8.0)])
def test_rotation_is_a_complex_product(base, factors):
    x = np.random.default_rng(1).normal(size=(2, 7, 3, 8))
    expected = _rotated(x, base, np.array(factors or 1.0))
    np.testing.assert_allclose(Rotary(8, base, factors)(jnp.float32(x)), expected, 1e-4, 1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    one = np.random.default_rng(2).normal(size=(2, 8)).astype(np.float32)
    turned = (np.asarray(Rotary(8)(jnp.tile(x, (1, 9, 1, 1))))[0, :, 0] for x in one[:, None])
    query, key = turned
    products = query @ key.T
    for distance in range(5):
        same = np.diagonal(products, distance)
        np.testing.assert_allclose(same, same[0], rtol=1e-4, atol=1e-5)


def test_vectors_turn_by_the_positions_that_are_given():
    x = jnp.float32(np.random.default_rng(2).normal(size=(2, 7, 3, 8)))
    places = jnp.array([3, 0, 6])
    given = Rotary(8)(x[:, places], places[None, :, None])
    np.testing.assert_allclose(given, Rotary(8)(x)[:, places], rtol=1e-6)
    of_heads = Rotary(8)(x[:, :1], jnp.array([5, 5, 2])[None, None])
    alone = Rotary(8)(jnp.tile(x[:, :1], (1, 7, 1, 1)))
    expected = np.stack([alone[:, 5, 0], alone[:, 5, 1], alone[:, 2, 2]], axis=1)[:, None]
    np.testing.assert_allclose(of_heads, expected, rtol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kv_heads", "size"), [(4, 4), (2, 4), (1, 4), (2, 6)])
def test_attention_is_what_the_loops_compute(kv_heads, size, bias):
    layer = Attention(16, 4, kv_heads, Rotary(size), bias=bias, depth=2, rngs=nnx.Rngs(3))
    names = {"q": layer.query, "k": layer.key, "v": layer.value, "o": layer.output}
    random, biases = np.random.default_rng(4), dict.fromkeys("qkv", 0.0)
    if bias:
        biases = {n: random.normal(size=names[n].out_features) for n in "qkv"}
        for n, value in biases.items():
            names[n].bias.set_value(jnp.float32(value))
    weights = {n: np.asarray(x.kernel.get_value(), np.float64) for n, x in names.items()}
    x = random.normal(size=(2, 5, 16))
    expected = _attended(x, weights, biases, 4, kv_heads, size)
    np.testing.assert_allclose(_run(layer, jnp.float32(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_a_later_token_changes_no_earlier_logit(scan):
    model = _decoder(scan=scan, kv_heads=2)
    later = TOKENS.copy()
    later[:, 3:] = (later[:, 3:] + 5) % 11
    first, second = _run(model, TOKENS), _run(model, later)
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (first[:, 3:] != second[:, 3:]).any(axis=-1).all()


def test_scanned_blocks_compute_what_unrolled_ones_do():
    unrolled, scanned = _decoder(), _decoder(scan=True)
    weights = nnx.to_pure_dict(nnx.state(unrolled))
    layers = weights["blocks"].values()
    weights["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    state = nnx.state(scanned)
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    assert shapes == jax.tree.map(jnp.shape, weights)
    nnx.replace_by_pure_dict(state, weights)
    nnx.update(scanned, state)
    np.testing.assert_allclose(_run(scanned, TOKENS), _run(unrolled, TOKENS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scan", [False, True])
def test_attention_of_another_kind_sees_every_layer_and_keeps_what_it_returns(scan, tied):
    model = _decoder(scan=scan, kv_heads=2, tied=tied)

    def attend(rotary, query, key, value, kept):
        mixed, _ = causal(rotary, query, key, value, None)
        return mixed, kept + jnp.abs(key).sum()

    kept = jnp.arange(2.0) if scan else list(jnp.arange(2.0))
    x, kept = model.hidden(jnp.asarray(TOKENS), attend, kept)
    np.testing.assert_array_equal(model.logits(x), model(jnp.asarray(TOKENS)))
    first, second = (float(x) for x in kept)
    assert first > 0 and second > 1 and first != second - 1


def test_layers_of_scanned_blocks_begin_differently():
    kernel = _decoder(scan=True).blocks.attention.query.kernel.get_value()
    assert not np.array_equal(kernel[0], kernel[1])


def _plan(asked=False, **changes):
    """The start table; ERK reads merged shapes, so it fails where one is not known."""
    model = nnx.eval_shape(lambda: _decoder(kv_heads=2, **changes))
    roles = dst.nnx.roles(model) if asked else None
    tx = dst.sparsify(
        optax.identity(), dst.Static(sparsity=0.8), stacked=model.stacked, roles=roles
    )
    return tx.plan(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("asked", [True, False], ids=["by its modules", "by its names"])
def test_projections_are_sparse_and_tables_and_norms_dense(tied, scan, asked):
    leaves = {x.path: x for x in _plan(asked, tied=tied, scan=scan).leaves}
    sparse = {p.split("/")[-2] for p, x in leaves.items() if x.sparse}
    assert sparse == {"query", "key", "value", "output", "gate", "up", "down"}
    dense = {p.split("/")[0] for p, x in leaves.items() if not x.sparse and "blocks" not in p}
    assert dense == {"embedding", "final_norm"} | (set() if tied else {"unembedding"})
    key = next(x for p, x in leaves.items() if p.endswith("key/kernel"))
    assert key.merged_shape == (16, 8) and key.layers == (2 if scan else 1)


def test_scanned_and_unrolled_blocks_keep_the_same_number_of_weights():
    unrolled, scanned = (_plan(scan=scan).sparse for scan in (False, True))
    assert len(unrolled) == 2 * len(scanned) == 14
    for path, plan in scanned.items():
        for layer, active in enumerate(plan.initial.ravel()):
            assert int(unrolled[path.replace("blocks", f"blocks/{layer}")].initial.item()) == active


@pytest.mark.parametrize("scan", [False, True])
def test_the_activation_changes_what_is_computed_and_no_weight(scan):
    silu, relu = _decoder(scan=scan), _decoder(scan=scan, activation="relu")
    for x, y in zip(*(jax.tree.leaves(nnx.state(m)) for m in (silu, relu)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert np.abs(_run(silu, TOKENS) - _run(relu, TOKENS)).max() > 1e-4


@pytest.mark.parametrize("name", ["silu", "relu"])
def test_a_feed_forward_layer_is_what_numpy_computes(name):
    layer = SwiGLU(6, 10, activation=ACTIVATIONS[name], depth=1, rngs=nnx.Rngs(5))
    x = np.random.default_rng(6).normal(size=(2, 3, 6)).astype(np.float32)
    gate, up, down = (
        np.asarray(part.kernel.get_value(), np.float64)
        for part in (layer.gate, layer.up, layer.down)
    )
    gate = x @ gate
    gate = np.maximum(gate, 0) if name == "relu" else gate / (1 + np.exp(-gate))
    np.testing.assert_allclose(_run(layer, x), gate * (x @ up) @ down, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"activation": "gelu"}, r"activation must be one of \['silu', 'relu'\], got 'gelu'"),
        ({"heads": 3}, "heads must divide width, or head_size be given, got width 16, heads 3"),
        ({"heads": 16}, "even number of channels, which turn in pairs, got 1"),
        ({"head_size": 5}, "even number of channels, which turn in pairs, got 5"),
        ({"kv_heads": 3}, "kv_heads must divide heads, got heads 4, kv_heads 3"),
        ({"rotary_factors": (1.0,)}, "rotary_factors must be 2 numbers, .* got 1"),
    ],
)
def test_heads_that_do_not_divide_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        nnx.eval_shape(lambda: _decoder(**wrong))


@pytest.mark.parametrize("scan", [False, True])
def test_size_base_and_epsilon_reach_every_block(scan):
    settings = {"head_size": 6, "rotary_base": 5.0, "rotary_factors": (1, 2, 3), "epsilon": 1e-2}
    model = _decoder(scan=scan, bias=True, **settings)
    for block in [model.blocks] if scan else model.blocks:
        assert block.attention.rotary == Rotary(6, 5.0, (1, 2, 3))
        assert block.attention_norm.epsilon == block.feed_forward_norm.epsilon == 1e-2
        assert block.attention.query.kernel.get_value().shape[-2:] == (16, 24)
        assert block.attention.value.bias.get_value().shape[-1] == 24
    assert model.final_norm.epsilon == 1e-2 and np.isfinite(_run(model, TOKENS)).all()


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="at most 6 tokens long, got 7"):
        nnx.eval_shape(lambda: _decoder()(jnp.zeros((1, 7), int)))


@pytest.mark.parametrize("width", [32, 256])
def test_logits_begin_with_variance_one_at_every_width(width):
    model = Decoder((16,), 64, width=width, layers=4, heads=4, hidden=4 * width, rngs=nnx.Rngs(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 64, (8, 16)))
    assert _run(model, tokens).std() == pytest.approx(1, rel=0.25)
