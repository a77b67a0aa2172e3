"""Laws of HYDRA: scores start in proportion to weights, and then learn as those of edge-popup."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import dst
from dst.rules.allocation import zeros
from tests.methods.test_random_cases import MOMENTUM, RATE, drawn, follow, trained
from tests.reference.edge_popup import EdgePopup
from tests.reference.optimizer import Momentum


def test_scores_start_as_weights_scaled_by_the_largest_of_their_layer():
    """``fan_in`` 6, so the largest weight gets ``sqrt(6 / 6) = 1``; a layer of zeros gets zeros."""
    weight = np.zeros((3, 6, 2), np.float32)
    weight[0, 0] = [2.0, -0.5]
    weight[0, 1] = [1.0, 0.25]
    weight[1, 2] = [0.25, -0.125]
    tx = dst.sparsify(optax.sgd(0.1), dst.HYDRA(0.5), stacked={"w": 1})
    state = tx.init({"w": weight})
    expected = np.zeros_like(weight)
    expected[0, 0], expected[0, 1] = [1.0, -0.25], [0.5, 0.125]
    expected[1, 2] = [1.0, -0.5]
    np.testing.assert_array_equal(state.variables["w"]["latent"], expected)


def test_it_begins_with_the_largest_weights_and_keeps_their_values():
    weight = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    tx = dst.sparsify(optax.sgd(0.1), dst.HYDRA(0.75))
    params = {"w": weight}
    state = tx.init(params)
    mask = np.asarray(dst.masks(state)["w"])
    assert mask.sum() == 12 and np.abs(weight)[mask].min() > np.abs(weight)[~mask].max()
    params = dst.apply_masks(params, state)
    updates, state = tx.update({"w": -weight}, state, params)
    params = optax.apply_updates(params, updates)
    used = np.asarray(params["w"])
    np.testing.assert_array_equal(used, np.where(dst.masks(state)["w"], weight, 0))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.evidence)])
def test_after_its_start_it_equals_its_authors_code(seed):
    random, weights, grads = drawn(seed)
    sparsity = int(random.integers(1, 20)) / 20
    params, masks, kept = jax.device_get(trained(dst.HYDRA(sparsity), weights, grads))

    def twin(case):
        start = kept["latent"][case, 0]
        return EdgePopup(weights[case], start, zeros(48, sparsity), Momentum(RATE, MOMENTUM))

    def look(twin, case, step):
        np.testing.assert_allclose(kept["latent"][case, step], twin.scores, rtol=1e-5, atol=1e-6)
        twin.scores = kept["latent"][case, step]  # the start is no power of two: sums round
        twin._choose()
        np.testing.assert_array_equal(masks[case, step], twin.mask)
        np.testing.assert_array_equal(params[case, step], twin.used)

    follow(params, grads, twin, look)
