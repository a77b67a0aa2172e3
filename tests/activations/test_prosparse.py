"""Laws of ProSparse: its schedule, its L1 term and its last threshold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst.activations import FATReLU, Progressive, apply, remove, with_l1
from dst.activations.prosparse import fat_relu
from tests.activations.decoders import BATCHES, decoder, logits, recorded, scanned

# Worked out in Python, of LLaMA-2-7B.
FACTORS = {
    0: 0.0,
    5000: 0.0,
    5001: 0.005,
    5500: 0.005,
    6000: 0.005,
    7000: 0.0115901,
    8000: 0.0275,
    9000: 0.0434099,
    10_000: 0.05,
    11_000: 0.05,
    13_000: 0.07196699,
    14_000: 0.125,
    16_000: 0.2,
    16_500: 0.2,
    10**6: 0.2,
}


def test_the_factor_grows_along_sines():
    schedule = Progressive(start=5000)
    found = jax.jit(jax.vmap(schedule))(jnp.array(list(FACTORS)))
    np.testing.assert_allclose(found, list(FACTORS.values()), rtol=2e-6, atol=1e-9)
    assert float(schedule(7000)) == float(found[list(FACTORS).index(7000)])
    steps = np.asarray(jax.vmap(schedule)(jnp.arange(5001, 16_501)))
    assert (np.diff(steps) >= -1e-8).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"factors": (), "ends": ()},
        {"factors": (0.1,), "ends": (10, 20)},
        {"factors": (0.1, 0.2), "ends": (20, 20)},
        {"factors": (0.1,), "ends": (10,), "start": 10},
        {"factors": (0.1,), "ends": (10,), "start": -1},
        {"factors": (-0.1,), "ends": (10,)},
    ],
)
def test_stages_that_do_not_follow_each_other_are_refused(wrong):
    with pytest.raises(ValueError, match="Progressive"):
        Progressive(**wrong)


@pytest.mark.parametrize("scan", [False, True])
def test_l1_is_that_of_numpy(scan):
    model = decoder(activation="relu")
    entered = [x for x, _ in recorded(model, BATCHES[0], "down")]
    expected = sum(np.abs(x).sum(axis=-1).mean() for x in entered)
    model = scanned(model) if scan else model
    before = nnx.split(model)[0]
    found, l1 = with_l1(model, jnp.asarray(BATCHES[0]))
    np.testing.assert_allclose(l1, expected, rtol=1e-5)
    np.testing.assert_allclose(found, logits(model), atol=1e-5)
    assert nnx.split(model)[0] == before


@pytest.mark.parametrize("scan", [False, True])
def test_a_step_along_its_gradient_lowers_the_l1_norm(scan):
    graph, state = nnx.split(decoder(activation="relu", scan=scan))
    tokens = jnp.asarray(BATCHES[0])

    def l1(state):
        return with_l1(nnx.merge(graph, state), tokens)[1]

    before, gradient = jax.jit(jax.value_and_grad(l1))(state)
    after = l1(jax.tree.map(lambda x, g: x - 1e-3 * g, state, gradient))
    assert 0 < float(after) < float(before)


def test_fat_relu_keeps_what_reaches_the_threshold():
    x = jnp.array([-0.5, 0, 0.005, 0.01, 0.02])
    np.testing.assert_array_equal(fat_relu(x, 0.01), np.float32([0, 0, 0, 0.01, 0.02]))
    model = decoder(layers=1, activation="relu")
    apply(model, FATReLU(0.05))
    ((_, gate),) = recorded(model, BATCHES[0], "gate")
    ((_, up),), ((down, _),) = (recorded(model, BATCHES[0], n) for n in ("up", "down"))
    np.testing.assert_allclose(down, np.where(gate < 0.05, 0, gate) * up, rtol=1e-4, atol=1e-6)
    remove(model)
    assert model.blocks[0].feed_forward.activation is nnx.relu
