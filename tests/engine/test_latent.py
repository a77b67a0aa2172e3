"""Laws of latent-weight methods: parameters are the weights in use, and exactly sparse."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import dst
from dst.methods.structure_decay import stages
from tests.reference import units as loops
from tests.reference.canonical import G
from tests.runs import QUICK, SHAPES, X, error, forward, initial_params, quick

ROW = np.array([0.1, -0.9, 0.4, 0.4, 0, 0.2, -0.3, 0.05], np.float32)[:, None]
ROW_GRAD = np.array([0.1, 0.2, 0.3, -0.1, 0.5, 0, 0.1, -0.2], np.float32)[:, None]
THETA = np.array([[0.5, -0.1, 0.05, 0.8], [0.02, 0.3, -0.7, 0.01], [0.2, -0.15, 0.04, -0.4]])
THETA = THETA.astype(np.float32)

METHODS = {
    "sr-ste": dst.SRSTE(1, 4),
    "mask-decay": dst.MaskDecay(1, 4, start=20, stop=150),
    "structure-decay": dst.StructureDecay(1, 4, start=20, stop=150),
    "top-kast": dst.TopKAST(0.75, 0.5, every=5),
    "edge-popup": dst.EdgePopup(0.75),
}
LONG = [
    pytest.param(name, marks=[] if name in ("mask-decay", "top-kast") else pytest.mark.evidence)
    for name in METHODS
]


def gradients(params):
    return jax.grad(lambda p: error(forward(p, X)))(params)


def begin(tx, params):
    state = tx.init(params)
    return dst.apply_masks(params, state), state


def weights_in_use(state, path, name):
    """What a method promises, from its variables."""
    memory, mask = state.variables[path]["kernel"], dst.masks(state)[f"{path}/kernel"]
    if name == "mask-decay":
        softness = METHODS[name].rule().softness(state.count)
        return memory["latent"] * jnp.where(memory["active"], 1.0, softness)
    return jnp.where(mask, memory["fixed" if name == "edge-popup" else "latent"], 0.0)


@pytest.mark.parametrize("name", LONG)
def test_parameters_are_the_weights_in_use_within_one_rounding_over_300_steps(name):
    tx = dst.sparsify(optax.adamw(1e-2), METHODS[name])

    def step(carry, _):
        params, state = carry
        updates, after = tx.update(gradients(params), state, params)
        new = optax.apply_updates(params, updates)
        worst, off = jnp.float32(0), jnp.float32(0)
        for path in ("hidden", "out"):
            old, now = params[path]["kernel"], new[path]["kernel"]
            target = weights_in_use(after, path, name)
            scale = jnp.maximum(jnp.maximum(jnp.abs(old), jnp.abs(target)), 1e-30)
            worst = jnp.maximum(worst, jnp.max(jnp.abs(now - target) / scale))
            mask = dst.masks(after)[f"{path}/kernel"]
            off = jnp.maximum(off, jnp.max(jnp.where(mask, 0, jnp.abs(now))))
        return (new, after), (worst, off)

    @partial(jax.jit, compiler_options=QUICK)
    def run(params):
        return lax.scan(step, begin(tx, params), None, length=300)

    (params, state), (worst, off) = run(initial_params())
    assert float(worst.max()) <= 2.0**-23 and not off.any()
    assert float(worst[-50:].max()) <= 2.0**-23
    dst.check_invariants(state, params)
    assert "0.7500" in dst.table(state, params)
    assert float(dst.metrics(state, params)["sparsity"]) == 0.75
    for path, mask in dst.masks(state).items():
        assert int(mask.sum()) == mask.size // 4
        if "decay" in name or name == "sr-ste":
            groups = loops.units(dst.NM(1, 4), SHAPES[path], "i o")
            assert set(loops.counts(np.asarray(mask), groups).values()) == {1}
            assert ((np.asarray(params[path.split("/")[0]]["kernel"]) != 0) <= mask).all()


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (2e-4, [0.089998, -0.92, 0.37, 0.409992, -0.05, 0.2, -0.31, 0.069999]),
        (1e-2, [0.0899, -0.92, 0.37, 0.4096, -0.05, 0.2, -0.31, 0.06995]),
    ],
)
def test_sr_ste_moves_dense_weights_by_the_golden_numbers(decay, expected):
    """NM-sparsity/NM-sparsity, devkit/sparse_ops/sparse_ops.py: ``g + lambda (1 - mask) w``."""
    tx = quick(dst.sparsify(optax.sgd(0.1), dst.SRSTE(2, 4, decay=decay)))
    params, state = begin(tx, {"w": jnp.asarray(ROW)})
    np.testing.assert_array_equal(dst.masks(state)["w"][:, 0].astype(int), [0, 1, 1, 0, 0, 1, 1, 0])
    _, state = tx.update({"w": ROW_GRAD}, state, params)
    np.testing.assert_allclose(state.variables["w"]["latent"][:, 0], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("decay", "values"),
    [("linear", {250: 0.75, 1000: 0.0}), ("exp", {250: 0.778801, 1000: 0.367879})],
)
def test_mask_decay_fades_as_the_golden_says(decay, values):
    """From ``stop`` on it is 0, and it never grows."""
    rule = dst.MaskDecay(2, 4, decay=decay, beta=1e-3, start=0, stop=5000).rule()
    for t, value in values.items():
        assert float(rule.softness(t)) == pytest.approx(value, abs=1e-6)
    curve = np.array([float(rule.softness(t)) for t in range(0, 5400, 200)])
    assert curve[0] == 1 and (np.diff(curve) <= 0).all() and not curve[-2:].any()


@pytest.mark.parametrize(
    ("n", "m", "kept"),
    [(1, 16, [15, 8, 4, 2, 1]), (2, 4, [3, 2]), (1, 4, [3, 2, 1]), (2, 8, [7, 4, 2])],
)
def test_structure_decay_passes_through_the_golden_stages(n, m, kept):
    """In the counts of the masks: dense, then every stage, equally long, until ``stop``.
    abhibambhaniya/progressive_gradient_flow_nm_sparsity, ``get_decay_config``."""
    assert stages(n, m) == kept
    method = dst.StructureDecay(n, m, start=2, stop=2 + 2 * len(kept))
    tx = quick(dst.sparsify(optax.sgd(0.0), method))
    params, state = begin(tx, {"w": jax.random.normal(jax.random.key(0), (m, 3))})
    per_group = []
    for _ in range(4 + 2 * len(kept)):
        per_group.append(set(np.asarray(dst.masks(state)["w"]).sum(0).tolist()))
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    expected = [{m}] * 3 + [{k} for k in [*kept, n] for _ in range(2)]
    assert per_group == expected[: len(per_group)]


def test_top_kast_equals_the_golden():
    """Both sets, both penalties, and the weights after one step of SGD."""
    tx = quick(dst.sparsify(optax.sgd(0.1), dst.TopKAST(0.75, 0.5, penalty=0.01)))
    params, state = begin(tx, {"w": jnp.asarray(THETA)})
    inside = np.asarray(dst.masks(state)["w"])
    larger = np.asarray(state.variables["w"]["backward"])
    assert set(zip(*np.nonzero(inside), strict=True)) == {(0, 0), (0, 3), (1, 2)}
    assert set(zip(*np.nonzero(larger & ~inside), strict=True)) == {(1, 1), (2, 0), (2, 3)}
    for power, total in ((np.abs(THETA), 5.6), (THETA**2 / 2, 1.27)):
        assert power[inside].sum() + power[larger & ~inside].sum() / 0.25 == pytest.approx(total)
    _, state = tx.update({"w": G}, state, params)
    expected = THETA.copy()
    moved = {(0, 0): 0.4985, (0, 3): 0.8012, (1, 1): 0.2938}
    moved |= {(1, 2): -0.7033, (2, 0): 0.1742, (2, 3): -0.4014}
    for at, value in moved.items():
        expected[at] = value
    latent = np.asarray(state.variables["w"]["latent"])
    np.testing.assert_allclose(latent, expected, atol=5e-5)
    np.testing.assert_array_equal(latent[~larger], THETA[~larger])


def test_top_kast_leaves_everything_outside_the_larger_set_alone():
    method = dst.TopKAST(0.75, 0.5, every=3, explore_until=8)
    tx = quick(dst.sparsify(optax.adamw(1e-2), method))
    params, state = begin(tx, initial_params())
    grads = jax.jit(gradients, compiler_options=QUICK)
    for count in range(1, 13):
        before = state
        updates, state = tx.update(grads(params), state, params)
        params = optax.apply_updates(params, updates)
        for path, shape in SHAPES.items():
            name = path.split("/")[0]
            old, new = (s.variables[name]["kernel"] for s in (before, state))
            inside, larger = np.asarray(dst.masks(state)[path]), np.asarray(new["backward"])
            assert inside.sum() == np.prod(shape) // 4 and not (inside & ~larger).any()
            assert larger.sum() == (inside.sum() if count >= 8 else np.prod(shape) // 2)
            changed = np.asarray(old["latent"]) != np.asarray(new["latent"])
            assert changed.any() and not (changed & ~np.asarray(old["backward"])).any()
            for slot in (state.inner_state[0].mu, state.inner_state[0].nu):
                assert not np.asarray(slot[name]["kernel"])[~larger].any()
    assert int(state.topology.done) == 3
    dst.check_invariants(state, params)


def test_gradients_reach_all_weights_where_the_larger_set_is_dense():
    plain = dst.sparsify(optax.adam(1e-2), dst.TopKAST(0.75, 0.0))
    tx = quick(plain)
    params, state = begin(tx, initial_params())
    updates, state = tx.update(gradients(params), state, params)
    for path, shape in SHAPES.items():
        assert state.variables[path.split("/")[0]]["kernel"]["backward"].all()
        assert dst.masks(state)[path].sum() == np.prod(shape) // 4
    dst.check_invariants(state, optax.apply_updates(params, updates))
    usage = plain.plan(params).usage(10)
    assert set(usage.weights.values()) == {0.75} and not any(usage.gradients.values())


def test_edge_popup_uses_the_largest_absolute_scores():
    """allenai/hidden-networks, simple_mnist_example.py."""
    scores = jnp.array([0.3, -0.9, 0.1, -0.2])[:, None]
    rule = replace(dst.EdgePopup(0.5).rule(), start=lambda weight, leaf, key: scores)
    state = quick(dst.sparsify(optax.sgd(0.1), rule)).init({"w": jnp.ones((4, 1))})
    assert dst.masks(state)["w"][:, 0].astype(int).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("train_dense", [False, True])
def test_edge_popup_trains_scores_and_nothing_else(train_dense):
    tx = quick(dst.sparsify(optax.adamw(1e-2), dst.EdgePopup(0.75, train_dense=train_dense)))
    first = initial_params()
    params, state = begin(tx, first)
    start = state
    grads = jax.jit(gradients, compiler_options=QUICK)
    for _ in range(8):
        updates, state = tx.update(grads(params), state, params)
        params = optax.apply_updates(params, updates)
    for name, fan_in in (("hidden", 8), ("out", 16)):
        old, new = start.variables[name]["kernel"], state.variables[name]["kernel"]
        np.testing.assert_array_equal(old["fixed"], new["fixed"])
        assert (np.asarray(old["latent"]) != np.asarray(new["latent"])).all()
        sigma = np.sqrt(2 / (fan_in * 0.25))
        np.testing.assert_allclose(new["fixed"], np.sign(first[name]["kernel"]) * sigma, 1e-6)
        moved = (np.asarray(params[name]["bias"]) != np.asarray(first[name]["bias"])).any()
        assert moved == train_dense


def test_edge_popup_scores_move_as_autodiff_through_their_size_says():
    """Ranked by size, straight through: ``w (mask + |s| - stop(|s|))``, as the authors' code."""
    tx = quick(dst.sparsify(optax.sgd(0.1), dst.EdgePopup(0.75)))
    params, state = begin(tx, initial_params())
    updates, state = tx.update(gradients(params), state, params)  # now they are signed constants
    params = optax.apply_updates(params, updates)
    old = {name: state.variables[name]["kernel"] for name in ("hidden", "out")}

    def loss(scores):
        used = {}
        for name, s in scores.items():
            mask, size = dst.masks(state)[f"{name}/kernel"], jnp.abs(s)
            kernel = old[name]["fixed"] * (mask + size - lax.stop_gradient(size))
            used[name] = {"kernel": kernel, "bias": params[name]["bias"]}
        return error(forward(used, X))

    expected = jax.grad(loss)({name: x["latent"] for name, x in old.items()})
    assert any((np.asarray(x["latent"]) < 0).any() for x in old.values())
    _, state = tx.update(gradients(params), state, params)
    for name, x in old.items():
        moved = state.variables[name]["kernel"]["latent"] - x["latent"]
        np.testing.assert_allclose(moved, -0.1 * expected[name], atol=1e-7)


@pytest.mark.parametrize("anneal", [0, 6])
def test_top_k_weights_equal_a_plain_loop_bit_for_bit(anneal):
    """AdamW on all weights, then only the k largest of every matrix stay."""
    inner = optax.adamw(1e-2)
    tx = dst.sparsify(inner, dst.TopKWeights(0.75, anneal=anneal))
    first = initial_params()
    params, state = begin(tx, first)
    plain = jax.tree.map(np.array, first)
    if not anneal:
        plain = keep_largest(plain, 0.75)
    plain_state = inner.init(first)
    grads = jax.jit(gradients, compiler_options=QUICK)
    # One compiled optimizer for both: two programs may fuse, and round, differently.
    shared = jax.jit(inner.update, compiler_options=QUICK)
    tx = dst.sparsify(optax.GradientTransformation(inner.init, shared), tx.rule)
    for count in range(10):
        sparsity = 0.75 if not anneal else 0.75 * min(count / anneal, 1)
        raw = grads(plain)
        moved, plain_state = shared(raw, plain_state, plain)
        plain = keep_largest(jax.tree.map(lambda p, u: p + np.asarray(u), plain, moved), sparsity)
        updates, state = tx.update(raw, state, params)
        params = optax.apply_updates(params, updates)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(a, b)


def keep_largest(params, sparsity):
    result = jax.tree.map(np.copy, params)
    for name in ("hidden", "out"):
        w = result[name]["kernel"]
        dropped = np.argsort(np.abs(w).ravel(), kind="stable")[: int(sparsity * w.size + 1e-9)]
        w.ravel()[dropped] = 0
    return result


@pytest.mark.parametrize("inner", ["sgd", "adamw"])
def test_sr_ste_equals_a_loop_with_a_forward_hook(inner):
    """``w + stop_gradient(w mask - w)`` in the forward pass, the decay added to the gradient."""
    optimizer = optax.sgd(0.05, momentum=0.9) if inner == "sgd" else optax.adamw(1e-2)
    decay = 0.05

    def mask(w):
        groups = jnp.abs(w).reshape(-1, 4, w.shape[1])
        return (groups == groups.max(1, keepdims=True)).reshape(w.shape)

    def hooked(params):
        used = {
            n: x | {"kernel": x["kernel"] + lax.stop_gradient(_masked(x["kernel"]) - x["kernel"])}
            for n, x in params.items()
        }
        return error(forward(used, X))

    def _masked(w):
        return jnp.where(mask(w), w, 0)

    def hook_step(carry, _):
        params, state = carry
        grads = jax.grad(hooked)(params)
        for name, x in params.items():
            grads[name]["kernel"] += decay * jnp.where(mask(x["kernel"]), 0, x["kernel"])
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    tx = dst.sparsify(optimizer, dst.SRSTE(1, 4, decay=decay))

    def our_step(carry, _):
        params, state = carry
        updates, state = tx.update(gradients(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @partial(jax.jit, compiler_options=QUICK)
    def both(params):
        start = params, optimizer.init(params)
        (dense, _), _ = lax.scan(hook_step, start, None, length=20)
        (ours, state), _ = lax.scan(our_step, begin(tx, params), None, length=20)
        return dense, ours, state

    dense, ours, state = both(initial_params())
    for name in ("hidden", "out"):
        w = dense[name]["kernel"]
        np.testing.assert_allclose(state.variables[name]["kernel"]["latent"], w, 1e-4, 1e-6)
        np.testing.assert_allclose(ours[name]["kernel"], _masked(w), 1e-4, 1e-6)
        np.testing.assert_allclose(ours[name]["bias"], dense[name]["bias"], 1e-4, 1e-6)


@pytest.mark.parametrize("name", ["top-kast", "edge-popup"])
def test_runs_under_vmap_equal_single_ones(name):
    def train(seed):
        tx = dst.sparsify(optax.sgd(0.1, momentum=0.9), METHODS[name], seed=seed)
        carry = begin(tx, jax.tree.map(lambda x: x * (1 + seed / 7), initial_params()))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(gradients(params), state, params, topology=True)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = lax.scan(step, carry, None, length=3)
        return params, dst.masks(state)

    compiled = partial(jax.jit, compiler_options=QUICK)
    params, masks = compiled(jax.vmap(train))(jnp.arange(3))
    for seed in range(3):
        one, chosen = compiled(train)(jnp.int32(seed))
        jax.tree.map(lambda a, b, i=seed: np.testing.assert_array_equal(a[i], b), masks, chosen)
        jax.tree.map(
            lambda a, b, i=seed: np.testing.assert_allclose(a[i], b, 1e-4, 1e-5), params, one
        )


@pytest.mark.parametrize("name", ["sr-ste", "edge-popup"])
def test_bfloat16_parameters_are_the_rounded_weights_in_use(name):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), initial_params())
    tx = quick(dst.sparsify(optax.adamw(1e-2), METHODS[name]))
    params, state = begin(tx, params)
    for _ in range(5):
        grads = jax.tree.map(lambda x: jnp.cos(x * 9), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    for path in ("hidden", "out"):
        expected = np.asarray(weights_in_use(state, path, name))
        weights = params[path]["kernel"]
        assert weights.dtype == jnp.bfloat16
        np.testing.assert_allclose(weights.astype(jnp.float32), expected, rtol=2.0**-8)
        assert state.variables[path]["kernel"]["latent"].dtype == jnp.float32
    dst.check_invariants(state, params)


def start(method, **options):
    return dst.sparsify(optax.sgd(0.1), method, **options).init({"w": jnp.ones((6, 4))})


# name: (the call, parts of its message in this order)
CALLS = {
    "a global allocation": (
        lambda: start(dst.TopKAST(0.5, 0.2, allocation="global")),
        ["layer by layer", "global", "'uniform' or 'erk'"],
    ),
    "a LAMP allocation": (lambda: dst.EdgePopup(0.5, allocation="lamp"), ["layer by layer"]),
    "masks to start from": (
        lambda: start(dst.SRSTE(2, 4), initial={"w": np.ones((6, 4), bool)}),
        ["initial", "follow from its variables", "Leave it out"],
    ),
    "a random start": (
        lambda: start(dst.TopKWeights(0.5, anneal=0), initial="random"),
        ["initial", "follow from its variables"],
    ),
    "a sparser larger set": (
        lambda: dst.TopKAST(0.5, 0.8),
        ["must not be sparser", "0.8", "0.5", "Lower the first"],
    ),
    "a larger set in percent": (lambda: dst.TopKAST(0.5, 30), ["[0, 1]", "30", "mean 0.3"]),
    "a pattern that does not divide": (
        lambda: start(dst.SRSTE(2, 4)),
        ["w of shape (6, 4)", "multiples of 4", "axis 0 of length 6", "overrides="],
    ),
    "a pattern without halves": (
        lambda: dst.StructureDecay(1, 6),
        ["m / n must be a power of two", "6 / 1"],
    ),
    "a pattern that keeps all": (lambda: dst.SRSTE(4, 4), ["m of NM(n, m)", ">= 5", "4"]),
    "negative decay": (lambda: dst.SRSTE(decay=-1e-4), ["decay", ">= 0", "-0.0001"]),
    "decay NaN": (lambda: dst.SRSTE(decay=float("nan")), ["decay", ">= 0", "nan"]),
    "negative penalty": (lambda: dst.TopKAST(0.5, 0.2, penalty=-1), ["penalty", ">= 0", "-1"]),
    "negative beta": (lambda: dst.MaskDecay(beta=-0.1), ["beta", ">= 0", "-0.1"]),
    "an unknown decay": (lambda: dst.MaskDecay(decay="exponential"), ["decay", "exp"]),
    "percentages without steps": (lambda: start(dst.MaskDecay(2, 4)), ["start", "10%", "steps"]),
    "percentages without steps, stages": (
        lambda: start(dst.StructureDecay(2, 4)),
        ["start", "10%", "steps"],
    ),
    "annealing without steps": (lambda: start(dst.TopKWeights(0.5)), ["anneal", "50%", "steps"]),
    "a stop before the start": (lambda: dst.MaskDecay(start=20, stop=10), ["start=20", "stop=10"]),
    "no axes for a fan-in": (
        lambda: dst.sparsify(optax.sgd(0.1), dst.EdgePopup(0.5)).init({"w": jnp.ones((4, 3, 20))}),
        ["w: a kernel of shape (4, 3, 20)", "axes="],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls_of_latent_methods_say_what_to_do(name):
    call, parts = CALLS[name]
    with pytest.raises(ValueError) as error:
        call()
    text, at = str(error.value), 0
    for part in parts:
        assert part in text[at:], text
        at = text.index(part, at)
