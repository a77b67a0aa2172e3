"""Laws of the step: accumulation, moving average, no selection in the hot step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.train import optimizer as optim
from dst.train import setup
from dst.train.config.run import OPTIMIZER
from tests.training import batch, small

PLAIN = (
    "optimizer.name=sgd",
    "optimizer.clip=null",
    "optimizer.warmup=0",
    "optimizer.decay=constant",
)


def _train(made, n):
    state = made.begin()
    for count in range(n):
        state, metrics = made.step(state, *batch(made, count), topology=made.fires(count))
    return state, metrics


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_micro_batches_equal_one_big_batch(optimizer, tmp_path):
    settings = (*PLAIN, f"optimizer.name={optimizer}")
    whole, scores = _train(setup.make(small(tmp_path, *settings)), 8)
    parts, again = _train(setup.make(small(tmp_path, *settings, "optimizer.accumulate=4")), 8)
    assert int(parts.opt_state.count) == 8
    np.testing.assert_allclose(scores["loss"], again["loss"], rtol=1e-4)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.evidence
def test_eight_devices_train_as_one(tmp_path):
    if jax.local_device_count() < 8:
        pytest.skip("needs eight devices")
    one, _ = _train(setup.make(small(tmp_path, *PLAIN)), 12)
    eight, _ = _train(setup.make(small(tmp_path, *PLAIN, "mesh.data=8")), 12)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    overlap = dst.compare(dst.masks(one.opt_state), dst.masks(eight.opt_state))
    assert all(x.churn < 0.02 for x in overlap.values())


def test_invariants_hold_and_two_programs_are_enough(tmp_path):
    made = setup.make(small(tmp_path, "optimizer.accumulate=2", "optimizer.ema=0.9"))
    state, _ = _train(made, 25)
    dst.check_invariants(state.opt_state, state.params)
    assert int(state.opt_state.topology.done) == 2
    assert made.step._cache_size() <= 2  # JAX may have forgotten some, after many other tests


def test_the_hot_step_contains_no_selection(tmp_path):
    def loops(parts: int, topology: bool) -> int:
        made = setup.make(small(tmp_path, f"optimizer.accumulate={parts}"))
        arguments = (made.begin(), *batch(made, 0))
        return made.step.lower(*arguments, topology=topology).as_text().count("stablehlo.while")

    # Selection counts digits in loops; the only other one is the scan over several micro-batches.
    assert loops(1, False) == 0 < loops(1, True)
    assert loops(2, False) == 1


def test_the_moving_average_is_masked_at_evaluation(tmp_path):
    made = setup.make(small(tmp_path, "optimizer.ema=0.9"))
    state, _ = _train(made, 15)
    masks = dst.masks(state.opt_state)
    average = {"hidden/0/kernel": state.ema["hidden"][0]["kernel"]}
    off_mask = np.asarray(average["hidden/0/kernel"])[~np.asarray(masks["hidden/0/kernel"])]
    assert (off_mask != 0).any()  # connections dropped at step 10 still echo in the average
    masked = dst.apply_masks(state.ema, state.opt_state)
    scores = made.evaluate(state)
    expected = made.evaluate(state._replace(params=masked))
    np.testing.assert_allclose(scores["ema_loss"], expected["loss"], rtol=1e-6)
    assert abs(float(scores["ema_loss"] - scores["loss"])) > 1e-4


def test_the_average_follows_its_formula(tmp_path):
    made = setup.make(small(tmp_path, "optimizer.ema=0.75", "method.sparsity=0.5"))
    state = made.begin()
    expected = np.asarray(state.params["out"]["kernel"], np.float64)
    for count in range(3):
        state, _ = made.step(state, *batch(made, count), topology=False)
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["out"]["kernel"], np.float64)
    np.testing.assert_allclose(state.ema["out"]["kernel"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", ["constant", "cosine", "linear"])
def test_the_learning_rate_is_the_same_on_host_and_device(decay):
    config = optim.Optimizer(learning_rate=0.5, warmup="10%", decay=decay)
    rate = optim.learning_rate(config, 40)
    host = [rate(count) for count in range(45)]
    device = jax.vmap(rate)(np.arange(45))
    np.testing.assert_allclose(host, device, rtol=1e-5, atol=1e-6)
    assert host[:4] == [0.125, 0.25, 0.375, 0.5]
    assert host[40] == pytest.approx(0.5 if decay == "constant" else 0.0)


def test_the_logged_learning_rate_is_the_one_of_the_inner_optimizer(tmp_path):
    made = setup.make(small(tmp_path, "optimizer.name=sgd", "optimizer.clip=null"))
    state = made.begin()
    rate = optim.learning_rate(small(tmp_path).optimizer.value, 40)
    for count in range(13):
        state, metrics = made.step(state, *batch(made, count), topology=made.fires(count))
    # RigL's topology step at count 10 took no optimizer step.
    assert float(metrics["learning_rate"]) == pytest.approx(rate(11))


# Tests of the transformation and of conformance have the others, too.
SHORT = ("sgd", "adamw", "muon")
OPTIMIZERS = [
    pytest.param(name, marks=[] if name in SHORT else pytest.mark.evidence)
    for name in ("sgd", "momentum", "adam", "adamw", "lion", "adafactor", "muon", "frugal")
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_sparse(name):
    settings = {"name": name, "learning_rate": 0.01, "weight_decay": 1e-4, "clip": 1.0}
    config = OPTIMIZER.read(settings, "optimizer")
    method = dst.RigL(sparsity=0.5, every=1, stop=None, decay="constant")
    tx = dst.sparsify(optim.make(config, 10), method)
    params = {"w": jax.random.normal(jax.random.key(0), (6, 4)), "b": np.ones(4, np.float32)}
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    update = jax.jit(tx.update, static_argnames="topology")
    for count in range(3):
        grads = jax.tree.map(lambda p: p + 1, params)
        updates, state = update(grads, state, params, topology=tx.fires(count))
        params = optax.apply_updates(params, updates)
    dst.check_invariants(state, params)
    assert (np.asarray(params["b"]) < 1).all()


def test_biases_do_not_decay():
    params = {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    settings = {"name": "adamw", "learning_rate": 1.0, "weight_decay": 0.5}
    config = OPTIMIZER.read(settings, "optimizer")
    tx = optim.make(config, 10)
    updates, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    assert (np.asarray(updates["w"]) == -0.5).all() and (np.asarray(updates["b"]) == 0).all()


@pytest.mark.parametrize("method", ["grasp", "synflow"])
def test_topology_steps_look_at_what_the_method_asks_for(method, tmp_path):
    """The product of Hessian and gradient of the batch, or the flow of one input of ones."""
    settings = {"name": method, "sparsity": 0.75} | ({"rounds": 1} if method == "synflow" else {})
    made = setup.make(small(tmp_path, f"method={settings}"))
    state, (inputs, labels) = made.begin(), batch(made, 0)
    params = jax.tree.map(jnp.asarray, jax.device_get(state.params))

    def outputs(params, x):
        hidden, out = params["hidden"][0], params["out"]
        between = jax.nn.relu(x @ hidden["kernel"] + hidden["bias"][None])
        return between @ out["kernel"] + out["bias"][None]

    def loss(params):
        logits = outputs(params, inputs[0].reshape(inputs.shape[1], -1)) / 200
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[0]).mean()

    if method == "grasp":
        slope = jax.grad(loss)
        at = jax.tree.map(lambda g: g if g.ndim > 1 else jnp.zeros_like(g), slope(params))
        found = jax.jvp(slope, (params,), (at,))[1]
    else:
        sizes = jax.tree.map(jnp.abs, params)
        found = jax.grad(lambda p: outputs(p, jnp.ones((1, 64))).sum())(sizes)
    pairs = [(params["hidden"][0]["kernel"], found["hidden"][0]["kernel"])]
    pairs.append((params["out"]["kernel"], found["out"]["kernel"]))
    scores = [np.asarray(w * h if method == "grasp" else jnp.abs(w) * h) for w, h in pairs]
    least = np.sort(np.concatenate([s.ravel() for s in scores]))[-sum(s.size for s in scores) // 4]

    state, _ = made.step(state, inputs, labels, topology=True)
    masks = dst.masks(state.opt_state)
    differ = sum(
        int((np.asarray(mask) != (s >= least)).sum())
        for mask, s in zip(masks.values(), scores, strict=True)
    )
    assert differ <= 4  # of 1184: scores next to the threshold, whose rounding differs
    dst.check_invariants(state.opt_state, state.params)


def test_a_temperature_of_logits_needs_logits(tmp_path):
    random = np.random.default_rng(0)
    arrays = {"x": random.normal(size=(64, 8)), "y": random.normal(size=64)}
    np.savez(tmp_path / "a.npz", **{k: v.astype(np.float32) for k, v in arrays.items()})
    data = {"name": f"npz:{tmp_path / 'a.npz'}", "batch_size": 8}
    changes = [f"data={data}", "method={'name': 'grasp', 'sparsity': 0.5}"]
    with pytest.raises(setup.SetupError, match=r"method\.temperature must be 1.*Set"):
        setup.make(small(tmp_path, *changes))
    setup.make(small(tmp_path, *changes, "method.temperature=1"))
