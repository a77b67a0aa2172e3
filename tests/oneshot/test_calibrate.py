"""Laws of calibration: what enters each matrix, against NumPy, whatever the program looks like."""

from __future__ import annotations

from functools import partial

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import dst
from tests.oneshot import twins

RANDOM = np.random.default_rng(3)
WIDTH, SIZE, HIDDEN, LAYERS = 8, 2, 12, 3
SHAPES = {
    "q": (WIDTH, WIDTH),
    "k": (WIDTH, WIDTH // 2),
    "v": (WIDTH, WIDTH // 2),
    "o": (WIDTH, WIDTH),
    "gate": (WIDTH, HIDDEN),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
}


def normal(*shape, scale=1.0):
    return (RANDOM.normal(size=shape) * scale).astype(np.float32)


BLOCKS = [{n: normal(*s, scale=0.4) for n, s in SHAPES.items()} for _ in range(LAYERS)]
BATCHES = [normal(2, 5, WIDTH) for _ in range(2)]


def close(one, other):
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * max(abs(other).max(), 1e-3))


def normed(x):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def block(w, x):
    def heads(y):
        return y.reshape(*y.shape[:2], -1, SIZE)

    n = normed(x)
    q, k, v = heads(n @ w["q"]), heads(n @ w["k"]), heads(n @ w["v"])
    k, v = (jnp.repeat(y, q.shape[2] // y.shape[2], axis=2) for y in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / SIZE**0.5
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    x = x + mixed.reshape(x.shape) @ w["o"]
    m = normed(x)
    return x + (jnp.tanh(m @ w["gate"]) * (m @ w["up"])) @ w["down"]


def in_a_row(step, params, x):
    for w in params["blocks"]:
        x = step(w, x)
    return x


def in_a_loop(step, params, x):
    return lax.scan(lambda x, w: (step(w, x), None), x, params["blocks"])[0]


STACKED = {n: np.stack([w[n] for w in BLOCKS]) for n in SHAPES}
PROGRAMS = {
    "a list": (partial(in_a_row, block), BLOCKS),
    "jit in jit": (jax.jit(partial(in_a_row, jax.jit(block))), BLOCKS),
    "remat": (partial(in_a_row, jax.checkpoint(block)), BLOCKS),
    "a scan": (partial(in_a_loop, block), STACKED),
    "a scan of remat": (jax.jit(partial(in_a_loop, jax.checkpoint(block))), STACKED),
}


def expected_grams():
    grams = [dict.fromkeys(SHAPES, 0.0) for _ in BLOCKS]
    for x in BATCHES:
        x = x.astype(np.float64)
        for i, w in enumerate(BLOCKS):
            x, inputs = twins.block({n: v.astype(np.float64) for n, v in w.items()}, x, SIZE)
            for name, rows in inputs.items():
                grams[i][name] = grams[i][name] + twins.gram(rows)
    return grams


@pytest.mark.parametrize("program", PROGRAMS)
def test_blocks_of_a_transformer_see_the_inputs_of_numpy(program):
    forward, blocks = PROGRAMS[program]
    seen = {}
    stages = list(dst.calibrate(forward, {"blocks": blocks}, BATCHES))
    for stage in stages:
        seen |= stage
    for i, grams in enumerate(expected_grams()):
        for name, gram in grams.items():
            path = f"blocks/{i}/{name}" if isinstance(blocks, list) else f"blocks/{name}[{i}]"
            close(seen[path].gram[0], gram)
            close(seen[path].squares[0], np.diag(gram))
    # Attention and feed-forward layer are stages of their own: between them one array is alive.
    assert [len(stage) for stage in stages] == [4, 3] * LAYERS
    names = ("q", "k", "v")
    q, k, v = ([s for p, s in stages[0].items() if f"/{n}" in p][0] for n in names)
    assert q is k is v


class Residual(nnx.Module):
    def __init__(self, rngs):
        self.wide = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.back = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + self.back(nnx.tanh(self.wide(x)))


def residual_inputs(layers, x):
    for i, (w, b, u, c) in enumerate(layers):
        hidden = np.tanh(x @ w + b)
        yield i, x, hidden
        x = x + hidden @ u + c


@pytest.mark.parametrize("scan", [False, True])
def test_layers_of_flax_nnx_see_the_inputs_of_numpy(scan):
    if scan:
        many = nnx.split_rngs(splits=LAYERS)(nnx.vmap(Residual, in_axes=0, out_axes=0))
        model = many(nnx.Rngs(0))
    else:
        model = nnx.List([Residual(nnx.Rngs(i)) for i in range(LAYERS)])
    graph, params = nnx.split(model)

    def forward(params, x):
        model = nnx.merge(graph, params)
        if scan:
            over = nnx.scan(lambda x, m: m(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return over(x, model)
        for layer in model:
            x = layer(x)
        return x

    def of(name, kind, i):
        if scan:
            return np.asarray(getattr(getattr(model, name), kind)[...][i], np.float64)
        return np.asarray(getattr(getattr(model[i], name), kind)[...], np.float64)

    layers = [
        [of(n, kind, i) for n in ("wide", "back") for kind in ("kernel", "bias")]
        for i in range(LAYERS)
    ]
    seen = {}
    stacked = {"**": 1} if scan else None
    for stage in dst.calibrate(forward, params, BATCHES[:1], stacked=stacked):
        seen |= stage
    for i, x, hidden in residual_inputs(layers, BATCHES[0].astype(np.float64)):
        for name, rows in (("wide", x), ("back", hidden)):
            path = f"{name}/kernel[{i}]" if scan else f"{i}/{name}/kernel"
            close(seen[path].gram[0], twins.gram(rows))


def test_attention_of_flax_merges_heads():
    model = nnx.MultiHeadAttention(2, WIDTH, qkv_features=4, decode=False, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    x = BATCHES[0]
    seen = {}
    for stage in dst.calibrate(lambda p, x: nnx.merge(graph, p)(x), params, [x]):
        seen |= stage

    def project(part):
        kernel, bias = (np.asarray(part.kernel[...]), np.asarray(part.bias[...]))
        return np.einsum("bti,ihd->bthd", x.astype(np.float64), kernel) + bias

    mixed = twins.attention(*(project(p) for p in (model.query, model.key, model.value)))
    close(seen["query/kernel"].gram[0], twins.gram(x))
    close(seen["out/kernel"].gram[0], twins.gram(mixed.reshape(2, 5, 4)))
    assert seen["query/kernel"] is seen["key/kernel"]
    _, masks = dst.prune(
        params, 0.5, method=dst.Wanda(), forward=lambda p, x: nnx.merge(graph, p)(x), batches=[x]
    )
    assert (np.asarray(masks["out/kernel"]).sum((0, 1)) == 2).all()
    assert (np.asarray(masks["query/kernel"]).sum(0) == WIDTH // 2).all()


CONVOLUTIONS = {
    "plain": {},
    "strided": {"stride": 2},
    "dilated": {"dilation": 2},
    "grouped": {"groups": 2},
    "all": {"stride": 2, "dilation": 2, "groups": 2},
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_see_patches(case):
    settings = {"stride": 1, "dilation": 1, "groups": 1} | CONVOLUTIONS[case]
    stride, dilation, groups = settings.values()
    x, kernel = normal(2, 7, 7, 4), normal(3, 3, 4 // groups, 6)

    def forward(p, x):
        return lax.conv_general_dilated(
            x,
            p["kernel"],
            (stride, stride),
            "VALID",
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    (stage,) = dst.calibrate(forward, {"kernel": kernel}, [x])
    rows = twins.patches(x.astype(np.float64), 3, stride, dilation, groups)
    close(stage["kernel"].gram, np.einsum("gri,grj->gij", rows, rows))
    # The matrices are those that the patches are multiplied with.
    pruned, masks = dst.prune(
        {"kernel": kernel}, 0.5, method=dst.Wanda(), forward=forward, batches=[x]
    )
    matrices = kernel.reshape(-1, groups, 6 // groups).transpose(1, 0, 2)
    scores = abs(matrices) * np.sqrt((rows**2).sum(1))[:, :, None]
    lost = np.argsort(np.argsort(scores, axis=1), axis=1) < scores.shape[1] // 2
    expected = ~lost.transpose(1, 0, 2).reshape(kernel.shape)
    np.testing.assert_array_equal(masks["kernel"], expected)
    np.testing.assert_array_equal(pruned["kernel"], np.where(expected, kernel, 0))


def test_experts_have_a_gram_matrix_each():
    x, w = normal(3, 5, 4), normal(3, 4, 6)
    params = {"w": w}
    (stage,) = dst.calibrate(lambda p, x: jnp.einsum("ecd,edf->ecf", x, p["w"]), params, [x])
    close(stage["w"].gram, np.einsum("eci,ecj->eij", x, x, dtype=np.float64))
    tokens, sizes = normal(7, 4), np.array([2, 0, 5], np.int32)
    batch = {"x": tokens, "sizes": sizes}
    (stage,) = dst.calibrate(
        lambda p, b: lax.ragged_dot(b["x"], p["w"], b["sizes"]), params, [batch]
    )
    parts = [tokens[:2], tokens[:0], tokens[2:]]
    close(stage["w"].gram, np.stack([twins.gram(part) for part in parts]))
    assert stage["w"].rows.tolist() == [2, 0, 5]


def test_a_matrix_that_is_used_twice_sees_both_inputs():
    x, w, u = normal(6, 4), normal(4, 4), normal(4, 3)

    def forward(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["u"]

    first, second = dst.calibrate(forward, {"w": w, "u": u}, [x])
    once = np.tanh(x.astype(np.float64) @ w)
    close(first["w"].gram[0], twins.gram(x) + twins.gram(once))
    close(second["u"].gram[0], twins.gram(np.tanh(once @ w)))


def test_kernels_joined_or_cut_at_call_time_are_matrices_of_their_leaves():
    x, parts = normal(6, 4), {n: normal(4, 3) for n in "qkv"}
    fused = np.concatenate(list(parts.values()), axis=1)
    joined = lambda p, x: x @ jnp.concatenate([p[n] for n in "qkv"], axis=1)  # noqa: E731

    def cut(p, x):
        q, k, v = jnp.split(p["qkv"], 3, axis=1)
        return jnp.tanh(x @ q) + jnp.tanh(x @ k) + jnp.tanh(x @ v)

    def turned(p, x):
        return x @ p["w"].astype(jnp.float32).T.reshape(4, 9)

    for forward, params in (
        (joined, parts),
        (cut, {"qkv": fused}),
        (turned, {"w": np.ascontiguousarray(fused.T).astype(jnp.bfloat16)}),
    ):
        (stage,) = dst.calibrate(forward, params, [x])
        for statistics in stage.values():
            close(statistics.gram[0], twins.gram(x))
        pruned, masks = dst.prune(params, 0.5, method=dst.Wanda(), forward=forward, batches=[x])
        for path, mask in masks.items():
            kept = np.asarray(mask).sum(1 if path == "w" else 0)
            assert (kept == 2).all()
            weights = np.asarray(params[path])
            np.testing.assert_array_equal(pruned[path], np.where(mask, weights, 0))
            assert pruned[path].dtype == weights.dtype


def test_bfloat16_sums_in_float32():
    x = jnp.asarray(normal(2, 9, 6), jnp.bfloat16)
    params = {n: jnp.asarray(normal(6, 6), jnp.bfloat16) for n in ("a", "b")}
    (stage,) = dst.calibrate(lambda p, x: [x @ p["a"], x @ p["b"]], params, [x])
    assert stage["a"].gram.dtype == jnp.float32 and stage["a"] is stage["b"]
    close(stage["a"].gram[0], twins.gram(np.asarray(x, np.float64)))


def test_layers_that_cast_the_same_input_share_a_gram_matrix():
    model = {n: nnx.Linear(6, 6, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)) for n in "ab"}
    graph, params = nnx.split(nnx.Dict(model))

    def forward(p, x):
        both = nnx.merge(graph, p)
        return both["a"](x) * both["b"](x)

    x = normal(5, 6)
    (stage,) = dst.calibrate(forward, params, [x])
    assert stage["a/kernel"] is stage["b/kernel"]
    close(stage["a/kernel"].gram[0], twins.gram(np.asarray(jnp.asarray(x, jnp.bfloat16))))


def test_linen_and_equinox_see_the_inputs_of_numpy():
    x = normal(5, 4)

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            hidden = jnp.tanh(linen.Dense(6)(x))
            return linen.Dense(3)(hidden)

    network = Network()
    params = network.init(jax.random.key(0), x)["params"]
    forward = lambda p, x: network.apply({"params": p}, x)  # noqa: E731
    first, second = dst.calibrate(forward, params, [x])
    w, b = (np.asarray(params["Dense_0"][n], np.float64) for n in ("kernel", "bias"))
    close(first["Dense_0/kernel"].gram[0], twins.gram(x))
    close(second["Dense_1/kernel"].gram[0], twins.gram(np.tanh(x @ w + b)))

    layers = equinox.nn.MLP(4, 3, 6, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = equinox.partition(layers, equinox.is_array)
    forward = lambda p, x: jax.vmap(equinox.combine(p, static))(x)  # noqa: E731
    first, second = dst.calibrate(forward, params, [x])
    (name,), (other,) = first, second
    w, b = (np.asarray(getattr(layers.layers[0], n), np.float64) for n in ("weight", "bias"))
    close(first[name].gram[0], twins.gram(x))
    close(second[other].gram[0], twins.gram(np.tanh(x @ w.T + b)))
    pruned, masks = dst.prune(params, 0.5, method=dst.Wanda(), forward=forward, batches=[x])
    assert (np.asarray(masks[name]).sum(1) == 2).all()
    assert jax.tree.structure(pruned) == jax.tree.structure(params)


def test_rows_can_be_left_out():
    batch = {"x": BATCHES[0], "real": np.arange(5)[None, :] < np.array([[5], [2]])}
    params = {"w": normal(WIDTH, 3), "u": normal(3, 2)}

    def forward(p, b):
        return jnp.tanh(b["x"] @ p["w"]) @ p["u"]

    stages = list(dst.calibrate(forward, params, [batch], where=lambda b: b["real"]))
    rows = BATCHES[0][batch["real"]].astype(np.float64)
    close(stages[0]["w"].gram[0], twins.gram(rows))
    close(stages[1]["u"].gram[0], twins.gram(np.tanh(rows @ params["w"])))
    assert stages[0]["w"].rows.tolist() == [7]
    close(stages[0]["w"].variance[0], rows.var(0))
    with pytest.raises(ValueError, match=r"where: expected bool rows of shape \(2, 5\).*\(2,\)"):
        list(dst.calibrate(forward, params, [batch], where=lambda b: b["real"][:, 0]))


W = {"w": normal(4, 4)}


def looked_up(p, x):
    return p["w"][jnp.asarray(x[:, 0], jnp.int32)] + x @ p["w"]


def in_a_branch(p, x):
    return lax.cond(x[0, 0] > 0, lambda: x @ p["w"], lambda: x)


def in_a_while(p, x):
    return lax.while_loop(lambda y: y[0, 0] < 3, lambda y: y @ p["w"], x)


REFUSED = {
    "no product": (lambda p, x: x * p["w"], "w: expected a matrix product.*`mul`"),
    "a branch": (in_a_branch, "w: .*`cond`"),
    "a loop": (in_a_while, "w: .*`while`"),
    "a lookup": (looked_up, "w: .*`gather`"),
    "not at all": (lambda p, x: x @ x, "w: expected a product .*found none"),
    "scaled": (lambda p, x: x @ (p["w"] * 2), "w: .*unchanged but for its layout, found `mul`"),
    "both ways": (lambda p, x: (x @ p["w"]) @ p["w"].T, "w: .*several ways"),
    "in part": (lambda p, x: x[:, :2] @ p["w"][:2], "w: .*all of its 16 weights, found 8"),
    "repeated": (lambda p, x: x @ jnp.concatenate([p["w"]] * 2, 1), "w: .*repeated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_leaves_that_no_product_consumes_are_refused_by_name(case):
    forward, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        dst.stages(forward, W, jnp.ones((4, 4)))


def test_batches_and_their_values_are_checked():
    def forward(p, x):
        return jnp.log(x @ p["w"]) @ p["u"]

    params = {"w": jnp.ones((4, 4)), "u": jnp.ones((4, 2))}
    with pytest.raises(ValueError, match=r"stage 1: expected finite inputs of u"):
        list(dst.calibrate(forward, params, [-jnp.ones((3, 4))]))
    with pytest.raises(ValueError, match="batches: expected all of one shape.*of batch 1"):
        dst.calibrate(forward, params, [jnp.ones((3, 4)), jnp.ones((2, 4))])
    with pytest.raises(ValueError, match="expected at least one batch"):
        dst.calibrate(forward, params, [])
    with pytest.raises(ValueError, match="needs"):
        dst.calibrate(forward, params, [jnp.ones((3, 4))], needs="hessian")


def test_the_plan_names_stages_leaves_and_bytes():
    plan = dst.stages(partial(in_a_row, block), {"blocks": BLOCKS}, BATCHES[0])
    lines = str(plan).splitlines()
    assert len(lines) == 1 + 2 * LAYERS
    stream, attention, feed_forward = 4 * 2 * 5 * WIDTH, 2 * WIDTH**2, WIDTH**2 + HIDDEN**2
    assert [s.live_bytes for s in plan.stages] == [stream] * 2 * LAYERS
    assert [s.gram_bytes for s in plan.stages] == [4 * attention, 4 * feed_forward] * LAYERS
    assert lines[2].split()[:4] == ["1", "blocks/0/gate,", "blocks/0/up,", "blocks/0/down"]


def test_true_sequential_stages_end_after_every_group_of_matrices():
    plan = dst.stages(partial(in_a_row, block), {"blocks": BLOCKS[:1]}, BATCHES[0], blocks="matrix")
    names = [[p.name.rpartition("/")[2] for p in s.pieces] for s in plan.stages]
    assert names == [["q", "k", "v"], ["o"], ["gate", "up"], ["down"]]
