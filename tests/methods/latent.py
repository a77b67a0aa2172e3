"""What tests of methods with latent weights share: one weight matrix and given gradients."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import dst
from tests.reference import learned
from tests.runs import QUICK, quick

RATE, MOMENTUM, STEPS = 0.1, 0.5, 20
SHAPE = (6, 5)  # inputs, outputs


def column(values):
    return jnp.array(values, jnp.float32)[:, None]


def momentum():
    return learned.Momentum(RATE, MOMENTUM)


def course(tx, weight, grads):
    """Parameters, masks and variables ``[1 + step, ...]``, from before the first step; and the
    parameters and the state at the end."""

    def seen(params, state):
        return params["w"], dst.masks(state)["w"], state.variables["w"]

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update({"w": grad}, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), seen(params, state)

    state = tx.init({"w": weight})
    first = dst.apply_masks({"w": weight}, state), state
    last, rest = lax.scan(step, first, grads)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), seen(*first), rest), last


def trained(method, weight, grads, inner=None, **options):
    """What :func:`course` gives under momentum, or another optimizer."""
    tx = dst.sparsify(inner or optax.sgd(RATE, momentum=MOMENTUM), method, seed=3, **options)
    run = partial(jax.jit, compiler_options=QUICK)(partial(course, tx))
    found, (params, state) = run(weight, grads)
    dst.check_invariants(state, params)
    return jax.device_get(found)


def drawn(seed, size=1.0):
    random = np.random.default_rng(seed)
    weights = random.normal(size=SHAPE).astype(np.float32)
    grads = size * random.normal(size=(STEPS, *SHAPE))
    return weights, grads.astype(np.float32)


def follow(found, twin, grads, variables, grows=True):
    """A twin and the method, step by step; masks drop and grow."""
    params, masks, kept = found
    for step, grad in enumerate([None, *grads]):
        if grad is not None:
            twin.step(grad.astype(np.float64))
            np.testing.assert_allclose(params[step], twin.used, rtol=1e-4, atol=2e-6)
        np.testing.assert_array_equal(masks[step], twin.mask, err_msg=str(step))
        for name, value in variables(twin).items():
            found = np.squeeze(kept[name][step])
            np.testing.assert_allclose(found, np.squeeze(value), rtol=1e-4, atol=2e-6)
    before, after = masks[:-1], masks[1:]
    assert (before & ~after).any() and (after & ~before).any() == grows


def slopes(method, latent, scores, grad, active, count=0, **options):
    """The gradients that the wrapped optimizer gets for latent weights and for scores."""
    tx = dst.sparsify(optax.sgd(1.0), method, seed=3, **options)
    state = tx.init({"w": latent})
    kept = state.variables["w"] | {"latent": latent, "scores": scores}
    kept |= {"active": active} if "active" in kept else {}
    masks = {"w": active.astype(jnp.uint8)}
    state = state._replace(variables={"w": kept}, masks=masks, count=jnp.int32(count))
    _, after = quick(tx).update({"w": grad}, state, {"w": latent})
    new = after.variables["w"]
    return latent - new["latent"], scores - new["scores"]


def equal(found, expected):
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6)
