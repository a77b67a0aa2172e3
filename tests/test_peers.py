"""What goes wrong in the closest peers: each a test that passes here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from runpy import run_path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

import dst
import dst.nnx
from dst.engine.state import sparse_states
from tests.runs import QUICK, NnxNet, X, error, forward, initial_params, quick

RIGL = dst.RigL(0.75, allocation="uniform", every=2, stop=100)
SET = dst.SET(0.75, allocation="uniform", every=2, stop=100)
METHODS = pytest.mark.parametrize(
    "method", [RIGL, pytest.param(SET, marks=pytest.mark.evidence)], ids=["rigl", "set"]
)


def loss(params):
    return error(forward(params, X))


gradient = jax.jit(jax.grad(loss))


def trained(tx, params, flags=(False, True), **extra):
    """Parameters and state after one step for each flag; zeros are checked on the way."""
    tx = quick(tx)
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    for flag in flags:
        updates, state = tx.update(gradient(params), state, params, topology=flag, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


# 5.3: what remains broken in JaxPruner


UNRECOGNIZED = {
    "lion": lambda tx: tx(optax.lion(1e-3)),
    "rmsprop": lambda tx: tx(optax.rmsprop(1e-3)),
    "adafactor": lambda tx: tx(optax.adafactor(1e-3)),
    "inject_hyperparams": lambda tx: tx(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)),
    "muon": lambda tx: tx(optax.contrib.muon(1e-3)),
    "MultiSteps": lambda tx: optax.MultiSteps(tx(optax.adam(1e-3)), 1),
    "multi_transform": lambda tx: optax.partition(
        {"train": tx(optax.adam(1e-3)), "freeze": optax.set_to_zero()},
        {"hidden": "train", "out": "freeze"},
    ),
}


@pytest.mark.parametrize("optimizer", UNRECOGNIZED)
def test_unrecognized_optimizer_state(optimizer):
    tx = UNRECOGNIZED[optimizer](lambda inner: dst.sparsify(inner, RIGL))
    params, state = trained(tx, initial_params())
    assert int(sparse_states(state)[0].topology.done) == 1
    dst.check_invariants(state, params)


def test_packed_masks_of_another_shape():
    """Masks cost one byte a weight and keep the shape of their parameter."""
    state = dst.sparsify(optax.sgd(0.1), RIGL).init(initial_params())
    packed = state.masks["hidden"]["kernel"]
    assert packed.shape == (8, 16) and packed.nbytes == 128


@METHODS
def test_nnx_optimizer_and_raw_nnx_state(method):
    model = NnxNet()
    tx = dst.sparsify(optax.adam(1e-2), method)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    raw = nnx.state(model, nnx.Param)
    assert dst.masks(tx.init(raw)).keys() == dst.masks(optimizer.opt_state).keys()
    nnx.update(model, dst.apply_masks(raw, optimizer.opt_state))
    grads = nnx.grad(lambda m: error(m(X)))(model)

    @nnx.jit
    def step(model, optimizer, grads):
        optimizer.update(model, grads, topology=True)

    step(model, optimizer, grads)
    dst.nnx.check_invariants(model, optimizer)


@METHODS
def test_bf16_gradients_of_float32_parameters_with_adamw(method):
    """There the branches of the cond differed in type."""
    tx = dst.sparsify(optax.adamw(1e-2), method)
    params = initial_params()
    state = tx.init(params)
    update = jax.jit(tx.update, compiler_options=QUICK)  # the count decides
    for _ in range(4):
        grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), gradient(params))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert int(state.topology.done) == 1
    dst.check_invariants(state, params)


def test_extra_update_arguments():
    inner = optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1))
    _, state = trained(dst.sparsify(inner, RIGL), initial_params(), [False] * 4, value=1.0)
    assert float(optax.tree.get(state, "scale")) < 1.0


def test_wrapper_inside_a_chain():
    tx = optax.chain(optax.clip_by_global_norm(1.0), dst.sparsify(optax.adam(1e-2), RIGL))
    params, state = trained(tx, initial_params(), [False, False, True])
    assert dst.masks(state).keys() == {"hidden/kernel", "out/kernel"}
    dst.check_invariants(state, params)


def test_forgetting_the_call_after_the_gradient_update():
    """Here it is `apply_masks`, once; without it the first update makes the network sparse."""
    params = initial_params()
    tx = dst.sparsify(optax.adamw(1e-2), RIGL)
    state = tx.init(params)
    updates, state = tx.update(gradient(params), state, params, topology=False)
    params = optax.apply_updates(params, updates)
    assert int((params["hidden"]["kernel"] != 0).sum()) == 32
    dst.check_invariants(state, params)


def test_first_step_dense():
    params = initial_params()
    state = dst.sparsify(optax.adam(1e-2), RIGL).init(params)
    assert int((dst.apply_masks(params, state)["hidden"]["kernel"] != 0).sum()) == 32


def test_drop_fraction_zero_with_large_gradients():
    params = {"w": jax.random.normal(jax.random.key(0), (16, 16)) * 1e-6}
    method = dst.RigL(0.75, drop_fraction=0.0, every=1, stop=100)
    tx = quick(dst.sparsify(optax.sgd(0.0), method))
    state = tx.init(params)
    params, before = dst.apply_masks(params, state), dst.masks(state)["w"]
    _, state = tx.update({"w": jnp.full((16, 16), 1e30)}, state, params, topology=True)
    np.testing.assert_array_equal(dst.masks(state)["w"], before)


def test_layer_of_more_than_2_to_the_24_elements():
    """Counts in float32 lose the last integer; here 2 516 897 stay 2 516 897."""
    shape, n = (4099, 4094), 2_516_897
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.85, allocation="uniform"))
    assert int(tx.plan(params).sparse["w"].initial) == 4099 * 4094 - 4099 * 4094 * 85 // 100
    scores = jax.lax.broadcasted_iota(jnp.float32, shape, 1)  # ties everywhere
    fast = {"xla_backend_optimization_level": 3}
    mask = jax.jit(dst.top_k_mask, compiler_options=fast)(scores, n)
    assert int(mask.sum(dtype=jnp.int32)) == n


@pytest.mark.parametrize("stop", [99, 100, 101])
def test_gmp_end_not_a_multiple_of_the_interval(stop):
    method = dst.GMP(0.9, every=10, start=5, stop=stop)
    counts = dst.sparsify(optax.sgd(0.1), method).plan(initial_params())
    assert method.rule().when.steps()[-1] == stop
    assert counts.sparse["hidden/kernel"].counts[-1, 1] == 128 - 115  # floor(0.9 * 128) zeros


def test_scan_stacked_kernel():
    """Every slice is a layer of its own, in allocation and in selection."""
    layers = jnp.stack([jnp.full((8, 8), 10.0**i) for i in range(3)])
    tx = quick(
        dst.sparsify(optax.sgd(0.1), dst.Static(0.75), stacked={"layers": 1}, initial="magnitude")
    )
    state = tx.init({"layers": layers, "out": jnp.ones((8, 4))})
    counts = dst.masks(state)["layers"].sum((1, 2))
    assert len(set(counts.tolist())) == 1 and int(counts[0]) < 64


# 3.1: what users of several peers report


def test_none_leaves_and_dense_leaves():
    params = {**initial_params(), "gone": None, "scale": jnp.ones(3)}
    for method in (RIGL, SET):
        tx = quick(dst.sparsify(optax.adam(1e-2), method))
        state = tx.init(params)
        updates, state = tx.update(params, state, params, topology=True)
        assert updates["gone"] is None
        assert dst.masks(state).keys() == {"hidden/kernel", "out/kernel"}


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.7, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("allocation", ["uniform", "er", "erk"])
def test_final_sparsity_differs_from_the_requested_one(allocation, sparsity):
    """Whole numbers of weights: right up to the rounding down in each layer."""
    shapes = {"a": (300, 100), "b": (3, 3, 16, 32), "c": (100, 10), "d": (784, 30)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity, allocation=allocation))
    plans = tx.plan(params).sparse.values()
    size = sum(p.leaf.size for p in plans)
    active = sum(int(p.initial) for p in plans)
    assert 0 <= active - size * (1 - sparsity) <= len(shapes)


def test_ties_change_the_number_of_weights():
    params = {"w": jnp.full((16, 16), 0.5)}
    tx = quick(dst.sparsify(optax.sgd(0.0), RIGL))
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    for _ in range(3):
        _, state = tx.update({"w": jnp.ones((16, 16))}, state, params, topology=True)
        assert int(dst.masks(state)["w"].sum()) == 64


def test_kept_weights_with_zero_score():
    """A mask is not `weights != 0`: an active weight may be zero, and is counted."""
    params = {"w": jnp.zeros((16, 16))}
    tx = quick(dst.sparsify(optax.sgd(0.0), SET))
    state = tx.init(params)
    for _ in range(3):
        before = dst.masks(state)["w"]
        _, state = tx.update(params, state, params, topology=True)
        after = dst.masks(state)["w"]
        assert int(after.sum()) == 64
        assert int((before & after).sum()) >= 64 - int(64 * 0.3)


def test_momentum_and_weight_decay_revive_pruned_weights():
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.99))
    params, state = trained(dst.sparsify(inner, RIGL), initial_params(), [False, True, False] * 2)
    dst.check_invariants(state._replace(count=jnp.int32(5)), params)


def test_masks_lost_on_resume(tmp_path: Path):
    """A run that is written to a file and read again continues bit for bit."""
    tx = quick(dst.sparsify(optax.adam(1e-2), SET))
    params = initial_params()
    state = tx.init(params)
    params = dst.apply_masks(params, state)

    def go_on(params, state, first):
        for count in range(first, first + 4):
            flag = RIGL.fires(count)
            updates, state = tx.update(gradient(params), state, params, topology=flag)
            params = optax.apply_updates(params, updates)
        return params, state

    params, state = go_on(params, state, 0)
    leaves, treedef = jax.tree.flatten((params, state))
    np.savez(tmp_path / "run.npz", *map(np.asarray, leaves))
    expected = go_on(params, state, 4)
    with np.load(tmp_path / "run.npz") as file:
        read = treedef.unflatten([jnp.asarray(file[f"arr_{i}"]) for i in range(len(leaves))])
    jax.tree.map(np.testing.assert_array_equal, go_on(*read, 4), expected)


def test_zeros_come_back_when_a_sparse_model_is_fine_tuned(tmp_path: Path):
    """Masks leave the program by path and are the start of another run."""
    params, state = trained(dst.sparsify(optax.adam(1e-2), SET), initial_params())
    dst.save_masks(tmp_path / "masks.safetensors", dst.masks(state))
    carried = dst.load_masks(tmp_path / "masks.safetensors")
    tuned, later = trained(dst.sparsify(optax.sgd(0.1), dst.FromMasks(carried)), params, [None] * 3)
    for path, mask in carried.items():
        np.testing.assert_array_equal(dst.masks(later)[path], mask)
        assert bool(jnp.all(tuned[path.split("/")[0]]["kernel"][~mask] == 0))


def test_masks_applied_to_stale_references():
    """The masks that a model shows are those that its optimizer holds."""
    model = NnxNet()
    optimizer = dst.nnx.Optimizer(model, optax.sgd(0.1), SET)
    step = nnx.jit(lambda m, o, g: o.update(m, g, topology=True))
    for _ in range(2):
        step(model, optimizer, nnx.grad(lambda m: error(m(X)))(model))
        for path, mask in dst.masks(nnx.as_pure(optimizer.opt_state)).items():
            np.testing.assert_array_equal(dst.nnx.masks(model)[path], mask)


def test_mixed_precision_and_accumulation():
    """bf16 throughout, gradients of two micro-steps, the flag on the second one."""
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), initial_params())
    tx = optax.MultiSteps(dst.sparsify(optax.adam(1e-2), RIGL), 2)
    flags = [False] * 5 + [True] + [False] * 2  # updates 0, 1, 2 (a topology step) and 3
    params, state = trained(tx, params, flags)
    dst.check_invariants(state, params)
    assert int(sparse_states(state)[0].topology.done) == 1


def test_reproduction_settings_hidden():
    """Every duration is printed in steps, whatever its unit."""
    tx = dst.sparsify(optax.sgd(0.1), dst.RigL(0.9, every="2%", stop="75%"), steps=5000)
    assert tx.rule.when == dst.UpdateSchedule(first=100, every=100, last=3700)


def test_norms_embeddings_and_recurrent_biases_are_pruned():
    kernel = jnp.ones((4, 4))
    params = {
        "embed": {"embedding": kernel},
        "wpe": kernel,
        "pos_embed": kernel,
        "ln_1": {"scale": kernel},
        "LayerNorm_0": {"scale": kernel},
        "lstm": {"kernel": kernel, "bias": kernel},
    }
    assert dst.masks(dst.sparsify(optax.sgd(0.1), RIGL).init(params)).keys() == {"lstm/kernel"}


def test_a_users_own_mask_is_kept():
    mask = np.random.default_rng(0).random((8, 16)) < 0.3
    tx = dst.sparsify(optax.adam(1e-2), dst.FromMasks({"hidden/kernel": mask}))
    _, state = trained(tx, initial_params(), [None] * 3)
    np.testing.assert_array_equal(dst.masks(state)["hidden/kernel"], mask)


def test_global_norm_clipping_of_dense_gradients():
    """Inactive gradients must not shrink the step: [.1, .2, 3, 4], two active."""
    params = {"w": jnp.ones((2, 2))}
    mask = {"w": np.array([[True, True], [False, False]])}
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    tx = dst.sparsify(inner, dst.FromMasks(mask))
    updates, _ = tx.update({"w": jnp.array([[0.1, 0.2], [3.0, 4.0]])}, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"][0], -jnp.array([0.1, 0.2]))


def test_growth_by_the_gradient_through_the_mask():
    """The gradient is that of all weights, so the best inactive one grows."""
    weights = jnp.array([[0.5, -0.1], [0.0, 0.3], [0.2, 0.0]])
    x, target = jnp.array([[1.0, 2.0, -1.0]]), jnp.array([[1.0, 0.0]])
    method = dst.RigL(1 / 3, drop_fraction=0.25, every=1, stop=10, decay="constant")
    tx = dst.sparsify(optax.sgd(0.1), method, initial={"w": weights != 0})
    params = {"w": weights}
    state = tx.init(params)
    grads = jax.grad(lambda p: 0.5 * jnp.sum((x @ p["w"] - target) ** 2))(params)
    np.testing.assert_allclose(grads["w"], [[-0.7, 0.5], [-1.4, 1], [0.7, -0.5]], rtol=1e-6)
    _, state = partial(tx.update, topology=True)(grads, state, params)
    assert dst.masks(state)["w"].tolist() == [[True, False], [True, True], [True, False]]


# The benchmark beside JaxPruner, whose source has to be had first


@pytest.mark.parametrize("given", [False, True])
def test_the_benchmark_says_where_the_source_of_jaxpruner_is(given, tmp_path, monkeypatch):
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    main = run_path(str(folder / "jaxpruner.py"))["main"]
    with pytest.raises(SystemExit, match="--source: expected a checkout of JaxPruner") as ended:
        main(["--source", str(tmp_path)] if given else [])
    found = f"no jaxpruner/__init__.py in {tmp_path}" if given else "no --source"
    assert f"found {found}. " in ended.value.code
    assert "git clone https://github.com/google-research/jaxpruner" in ended.value.code
