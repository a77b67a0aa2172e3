"""Laws of the decoder: what it computes, in NumPy; and what sparse training sees of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
from dst.models import Decoder
from dst.models.decoder import Attention, rotate
from tests.runs import QUICK

SIZES = {"width": 16, "layers": 2, "heads": 4, "hidden": 24}
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 6))


def _decoder(**changes):
    return Decoder((6,), 11, **{**SIZES, **changes}, rngs=nnx.Rngs(0))


def _run(model, inputs):
    graphdef, state = nnx.split(model)
    program = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x), compiler_options=QUICK)
    return np.asarray(program(state, inputs))


def _rotated(x):
    """The paper's form: complex numbers times ``exp(i t theta)``."""
    half = x.shape[-1] // 2
    theta = 10_000.0 ** (-2 * np.arange(half) / x.shape[-1])
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(
        1j * np.arange(x.shape[1])[:, None, None] * theta
    )
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _attended(x, weights, heads, kv_heads):
    """Causal attention in loops, one query at a time."""
    batch, length, width = x.shape
    size = width // heads
    parts = {n: (x @ w).reshape(batch, length, -1, size) for n, w in weights.items() if n != "o"}
    query, key = _rotated(parts["q"]), _rotated(parts["k"])
    heads_out = np.zeros((batch, length, heads, size))
    for b in range(batch):
        for h in range(heads):
            shared = h // (heads // kv_heads)
            for t in range(length):
                scores = key[b, : t + 1, shared] @ query[b, t, h] / np.sqrt(size)
                share = np.exp(scores - scores.max())
                heads_out[b, t, h] = (share / share.sum()) @ parts["v"][b, : t + 1, shared]
    return heads_out.reshape(x.shape) @ weights["o"]


def test_rotation_is_a_complex_product():
    x = np.random.default_rng(1).normal(size=(2, 7, 3, 8))
    np.testing.assert_allclose(rotate(jnp.float32(x)), _rotated(x), rtol=1e-4, atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    one = np.random.default_rng(2).normal(size=(2, 8)).astype(np.float32)
    query, key = (np.asarray(rotate(jnp.tile(x, (1, 9, 1, 1))))[0, :, 0] for x in one[:, None])
    products = query @ key.T
    for distance in range(5):
        same = np.diagonal(products, distance)
        np.testing.assert_allclose(same, same[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_is_what_the_loops_compute(kv_heads):
    layer = Attention(16, 4, kv_heads, depth=2, rngs=nnx.Rngs(3))
    names = {"q": layer.query, "k": layer.key, "v": layer.value, "o": layer.output}
    weights = {n: np.asarray(x.kernel.get_value(), np.float64) for n, x in names.items()}
    x = np.random.default_rng(4).normal(size=(2, 5, 16))
    expected = _attended(x, weights, 4, kv_heads)
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


def test_layers_of_scanned_blocks_begin_differently():
    kernel = _decoder(scan=True).blocks.attention.query.kernel.get_value()
    assert not np.array_equal(kernel[0], kernel[1])


def _plan(**changes):
    """The start table; ERK reads merged shapes, so it fails where one is not known."""
    model = nnx.eval_shape(lambda: _decoder(kv_heads=2, **changes))
    tx = dst.sparsify(optax.identity(), dst.Static(sparsity=0.8), stacked=model.stacked)
    return tx.plan(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scan", [True, False])
def test_projections_are_sparse_and_tables_and_norms_dense(tied, scan):
    leaves = {x.path: x for x in _plan(tied=tied, scan=scan).leaves}
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


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"heads": 16}, {"kv_heads": 3}])
def test_heads_that_do_not_divide_are_refused(wrong):
    with pytest.raises(ValueError, match="heads must divide width into even parts"):
        nnx.eval_shape(lambda: _decoder(**wrong))


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="at most 6 tokens long, got 7"):
        nnx.eval_shape(lambda: _decoder()(jnp.zeros((1, 7), int)))
