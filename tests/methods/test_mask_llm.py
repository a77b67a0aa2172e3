"""Laws of MaskLLM: numbers by hand, autodiff, soft masks of sum N, hard masks at the end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.rules.candidates import candidates, gumbel, hard_mask, soft_mask, with_prior
from tests.runs import QUICK

SIX = candidates(2, 4)
GATES = [0.01, -0.02, 0.0, 0.005, 0.015, -0.01]
RANDOM = np.random.default_rng(17)
W = RANDOM.normal(size=(8, 3)).astype(np.float32)
X = RANDOM.normal(size=(16, 8)).astype(np.float32)
Y = RANDOM.normal(size=(16, 3)).astype(np.float32)


def column(values):
    return jnp.array(values, jnp.float32)[:, None]


def error(w):
    return jnp.square(X @ w - Y).mean()


def trained(method, steps, grad=None, inner=None):
    """States and parameters, from before the first step."""
    tx = dst.sparsify(inner or optax.sgd(0.1), method, seed=5, steps=steps)
    params = {"w": jnp.asarray(W), "b": jnp.ones(3)}
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    step = jax.jit(tx.update, compiler_options=QUICK)
    seen = [(state, params)]
    for _ in range(steps):
        grads = {"w": jax.grad(error)(params["w"]) if grad is None else grad, "b": jnp.ones(3)}
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append((state, params))
    return seen


def test_candidates_prior_and_soft_mask_are_those_worked_out_by_hand():
    rows = ["".join(str(int(x)) for x in row) for row in SIX]
    assert rows == ["1100", "1010", "1001", "0110", "0101", "0011"]
    assert len(candidates(1, 4)) == 4 and len(candidates(4, 8)) == 70
    logits = with_prior(column(GATES), column([1, 0, 1, 0]), SIX, 3.0, (0, 1))
    expected = [0.01, 0.01911521, 0, 0.005, -0.02411521, -0.01]
    np.testing.assert_allclose(logits[:, 0], expected, atol=1e-7)
    noise = -np.log(-np.log(np.array([0.1, 0.9, 0.4, 0.6, 0.2, 0.7])))
    soft = soft_mask(logits, column(noise), 100.0, 4.0, SIX)
    np.testing.assert_allclose(soft[:, 0], [0.633332, 0.371144, 0.670032, 0.325491], atol=1e-6)
    assert hard_mask(logits, SIX)[:, 0].tolist() == [1, 0, 1, 0]
    flat = with_prior(column([0.0] * 6), column([1, 1, 0, 0]), SIX, 3.0, (0, 1))
    raised = flat + 0.03 * column([1, 0, 0, 0, 0, -1])
    soft = soft_mask(raised, jnp.zeros((6, 1)), 100.0, 1.0, SIX)
    np.testing.assert_allclose(soft[:, 0], [0.915071, 0.915071, 0.084929, 0.084929], atol=1e-6)


def test_a_logit_that_is_nan_gives_no_mask():
    assert np.isnan(hard_mask(column([0, 0, np.nan, 0, 0, 0]), SIX)).all()


def test_noise_is_that_of_gumbel():
    x = np.asarray(gumbel(jax.random.key(0), jnp.zeros((200, 100))))
    assert np.isfinite(x).all()
    assert x.mean() == pytest.approx(0.5772, abs=0.03) and x.var() == pytest.approx(1.645, abs=0.06)


def test_masks_are_soft_of_sum_n_until_they_are_hard():
    method = dst.MaskLLM(first_scale=1.0, last_scale=5.0)
    seen = trained(method, 6)
    for state, params in seen[1:-1]:
        sums = (np.asarray(params["w"]) / W).reshape(2, 4, 3).sum(1)
        np.testing.assert_allclose(sums, 2.0, rtol=1e-4)
        assert bool(dst.masks(state)["w"].all())
    state, params = seen[-1]
    mask = np.asarray(dst.masks(state)["w"])
    assert (mask.reshape(2, 4, 3).sum(1) == 2).all()
    np.testing.assert_array_equal(params["w"], np.where(mask, W, 0))  # weights keep every bit
    np.testing.assert_array_equal(params["b"], np.ones(3))
    best = hard_mask(state.variables["w"]["latent"], SIX)
    np.testing.assert_array_equal(best, mask)
    np.testing.assert_array_equal(state.variables["w"]["fixed"], W)
    dst.check_invariants(state, params)


def test_logits_move_as_autodiff_through_the_soft_mask_says():
    """With the term of kept weights; the noise is that of the weights in use."""
    method = dst.MaskLLM(first_scale=2.0, last_scale=4.0, decay=0.3)
    seen = trained(method, 4)
    before, after = seen[2][0], seen[3][0]
    x = 2 / 4
    kappa, tau = 2.0 + 2.0 * x, 4.0 + (0.05 - 4.0) * x
    old = before.variables["w"]["latent"]
    # Noise that gives the weights in use: any, as long as the soft mask is this one.
    from dst.engine.masks import keys

    (key,) = keys(["w"], jnp.uint32(5), 2)
    noise = gumbel(jax.random.fold_in(key, 2), old)

    def loss(logits):
        used = W * soft_mask(logits, noise, kappa, tau, SIX)
        return error(used) - 0.3 * (1 - x) * jnp.square(used).sum()

    np.testing.assert_allclose(
        seen[2][1]["w"], W * soft_mask(old, noise, kappa, tau, SIX), rtol=1e-4, atol=1e-6
    )
    moved = after.variables["w"]["latent"] - old
    np.testing.assert_allclose(moved, -0.1 * jax.grad(loss)(old), rtol=1e-3, atol=1e-6)


def test_a_prior_decides_where_nothing_speaks_against_it():
    prior = np.tile(np.array([0, 1, 0, 1], bool), 2)[:, None] & np.ones((1, 3), bool)
    nothing = jnp.zeros((8, 3))
    for given, expected in ((prior, prior), (None, None)):
        method = dst.MaskLLM(prior={"w": given} if given is not None else None, strength=50.0)
        state, _ = trained(method, 1, nothing)[-1]
        if expected is None:  # the largest weights
            order = np.argsort(np.argsort(-abs(W.reshape(2, 4, 3)), axis=1), axis=1)
            expected = (order < 2).reshape(8, 3)
        np.testing.assert_array_equal(dst.masks(state)["w"], expected)


def test_masks_that_help_are_learned():
    """Outputs that need two inputs of four; magnitudes choose the other two."""
    w = np.array([[0.5], [0.5], [1.0], [1.0]], np.float32)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    y = x[:, :2] @ w[:2]
    tx = dst.sparsify(optax.adam(0.02), dst.MaskLLM(), steps=150)
    params = {"w": jnp.asarray(w)}
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.square(x @ p["w"] - y).mean())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(150):
        params, state = step(params, state)
    assert params["w"][:, 0].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="the temperature must fall"):
        dst.MaskLLM(first_temperature=1.0, last_temperature=1.0)
    with pytest.raises(ValueError, match="at most 100, found 12870 for 8:16"):
        dst.MaskLLM(8, 16)
    params = {"w": jnp.ones((8, 3))}
    with pytest.raises(
        ValueError, match=r"w: expected a prior mask of shape \(8, 3\), got \(3, 8\)"
    ):
        method = dst.MaskLLM(prior={"w": np.ones((3, 8), bool)}, stop=4)
        dst.sparsify(optax.sgd(0.1), method).init(params)
    with pytest.raises(ValueError, match="needs inputs in multiples of 4"):
        dst.sparsify(optax.sgd(0.1), dst.MaskLLM(stop=4)).init({"w": jnp.ones((6, 3))})
    with pytest.raises(ValueError, match="one axis of inputs .* found axes o i"):
        tx = dst.sparsify(optax.sgd(0.1), dst.MaskLLM(stop=4), axes={"w": "o i"})
        tx.init({"w": jnp.ones((3, 8))})
    with pytest.raises(ValueError, match="needs the length of training"):
        dst.MaskLLM().rule()
