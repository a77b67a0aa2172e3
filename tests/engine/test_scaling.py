"""SmuPar: a sparse layer trains as the dense layer whose fan-in is its own active one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx
from dst.core import tree
from dst.train import loop
from tests.training import small, states_in

QUARTER = dst.Static(sparsity=0.75, allocation="uniform")


def weights(shape=(8, 16), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_a_quarter_of_the_fan_in_doubles_weights_and_quadruples_rates():
    """At width multiplier 2: std times 1.414214 and rate times 2, the golden's numbers."""
    params, grads = {"w": weights()}, {"w": weights(seed=1)}
    plain, scaled = (
        dst.sparsify(optax.adam(1e-2), QUARTER, scale=scale) for scale in (None, "smupar")
    )
    start = dst.scale_init(params, scaled)
    np.testing.assert_array_equal(start["w"], 2 * params["w"])
    assert float(2 / np.sqrt(2)) == pytest.approx(1.414214, abs=1e-6)
    assert dst.scale_init(params, plain) is params

    state = scaled.init(params)
    active = dst.masks(state)["w"]
    one, _ = plain.update(grads, plain.init(params), params)
    four, _ = scaled.update(grads, state, params)
    np.testing.assert_array_equal(four["w"][active], 4 * one["w"][active])
    np.testing.assert_array_equal(four["w"][~active], -params["w"][~active])


def train(tx, params, inputs, targets, steps=5):
    def loss(params):
        hidden = jax.nn.tanh(inputs @ params["first"])
        return jnp.mean((hidden @ params["w"] - targets) ** 2)

    state = tx.init(params)
    params = dst.apply_masks(params, state)
    losses = []
    for _ in range(steps):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return losses


def test_inputs_that_are_left_out_are_inputs_that_are_not_there():
    """A mask that keeps 4 of 16 inputs, against a layer of 4 inputs with its own variance and the
    rate of its own fan-in: the same training."""
    inputs, targets = weights((32, 6), 2), weights((32, 3), 3)
    first, drawn = weights((6, 16), 4) / np.sqrt(6), weights((16, 3), 5)
    keep = np.zeros((16, 3), bool)
    keep[:4] = True
    sparse = dst.sparsify(
        optax.adam(1e-2),
        dst.FromMasks({"w": keep}),
        select="w",
        scale="smupar",
    )
    wide = train(sparse, dst.scale_init({"first": first, "w": drawn / 4}, sparse), inputs, targets)
    rates = {"first": optax.adam(1e-2), "w": optax.adam(4e-2)}
    narrow_tx = dst.sparsify(optax.partition(rates, {"first": "first", "w": "w"}), dst.Dense())
    narrow = train(narrow_tx, {"first": first, "w": drawn / 2}, inputs, targets)
    # The hidden units that the mask leaves out get no gradient, so `first` trains alike, too.
    small_start = {"first": first[:, :4], "w": drawn[:4] / 2}
    small = train(narrow_tx, small_start, inputs, targets)
    np.testing.assert_allclose(wide, small, rtol=1e-5)
    assert not np.allclose(wide, narrow, rtol=1e-2)


def test_layers_of_a_stack_have_rates_of_their_own():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2], masks[1, :1] = True, True
    tx = dst.sparsify(optax.sgd(1.0), dst.FromMasks({"w": masks}), stacked={"w": 1}, scale="smupar")
    params = {"w": jnp.ones((2, 4, 4))}
    np.testing.assert_allclose(dst.scale_init(params, tx)["w"][:, 0, 0], [2**0.5, 2])
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"][:, 0, 0], [-2, -4])


@pytest.mark.parametrize("method", [dst.SRSTE(1, 4), dst.EdgePopup(0.75), dst.TopKAST(0.75, 0.5)])
def test_latent_weights_move_by_the_density_of_the_weights_in_use(method):
    params, grads = {"w": weights((16, 16))}, {"w": weights((16, 16), seed=1)}
    latents = []
    for scale in (None, "smupar"):
        tx = dst.sparsify(optax.adam(1e-3), method, scale=scale)
        state = tx.init(params)
        start = dst.apply_masks(params, state)
        updates, after = tx.update(grads, state, start)
        kept = [(s.variables["w"].get("latent"), s) for s in (state, after)]
        if kept[0][0] is None:
            latents.append(updates["w"] * dst.masks(after)["w"] * dst.masks(state)["w"])
        else:
            latents.append(kept[1][0] - kept[0][0])
    np.testing.assert_allclose(latents[1], 4 * latents[0], rtol=1e-3, atol=1e-7)


def test_a_flax_model_starts_with_the_variance_of_its_density():
    model = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
    before = np.asarray(model.kernel[...])
    optimizer = dst.nnx.Optimizer(model, optax.adam(1e-3), QUARTER, scale="smupar")
    mask = np.asarray(model.kernel_mask.get_value())
    np.testing.assert_allclose(model.kernel[...], np.where(mask, 2 * before, 0), rtol=1e-6)
    dst.nnx.check_invariants(model, optimizer)


def test_a_run_scales_its_new_weights(tmp_path):
    static = "method={'name': 'static', 'sparsity': 0.75, 'allocation': 'uniform'}"
    for name, more in (("plain", ()), ("scaled", ("sparsify.scale=smupar",))):
        loop.train(small(tmp_path, static, *more), tmp_path / name, until=10)
    (plain, _), (scaled, state) = (
        (dict(zip(*tree.flatten(x.params)[:2], strict=True)), x.opt_state)
        for x in (states_in(tmp_path / name)[0] for name in ("plain", "scaled"))
    )
    for path in plain.keys() - dst.masks(state).keys():
        np.testing.assert_array_equal(scaled[path], plain[path])
    for path in dst.masks(state):
        np.testing.assert_allclose(scaled[path], 2 * plain[path], rtol=1e-6)


@pytest.mark.parametrize("scale", ["mupar", 3, ["smupar"]])
def test_another_scale_is_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        dst.sparsify(optax.sgd(0.1), QUARTER, scale=scale)
