"""Laws of what reads the loss: gradients and divergence against NumPy, GBLM by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.oneshot import Gradients, divergence
from dst.oneshot.loss import Objective
from tests.oneshot.test_sparsegpt import W, X, matrix

RANDOM = np.random.default_rng(5)
BATCHES = [RANDOM.normal(size=(1, 5, 4)).astype(np.float32) for _ in range(3)]
TARGET = RANDOM.normal(size=(5, 2)).astype(np.float32)
PARAMS = {"a": RANDOM.normal(size=(4, 2)).astype(np.float32), "b": np.ones(2, np.float32)}


def forward(p, x):
    return x @ p["a"] + p["b"].reshape(1, 1, 2)


def loss(p, x):
    return jnp.square(forward(p, x) - TARGET[None]).mean()


def gradients():
    """Of ``a``, batch by batch, in float64."""
    found = []
    for x in BATCHES:
        error = x[0].astype(float) @ PARAMS["a"] + 1 - TARGET
        found.append(x[0].T.astype(float) @ error * 2 / error.size)
    return np.stack(found)


def test_norms_of_gradients_are_those_of_all_batches():
    leaves = [jnp.asarray(PARAMS["a"]), jnp.asarray(PARAMS["b"])]
    found = Objective(loss, PARAMS).gradients(leaves, BATCHES, {"a"})
    assert found.keys() == {"a"} and found["a"].batches == 3
    g = gradients()
    np.testing.assert_allclose(found["a"].absolute, abs(g).sum(0), rtol=1e-5)
    np.testing.assert_allclose(found["a"].norms, np.sqrt((g**2).sum(0)), rtol=1e-5)


def test_gblm_adds_gradients_to_wandas_norms():
    given = matrix(W, X)
    norms = np.array([[0.002, 0.05, 0.001, 0.01], [0.03, 0.002, 0.04, 0.001]], np.float32)
    of_loss = Gradients(1, jnp.zeros((1, 4, 2)), jnp.asarray(norms.T[None]))
    given = dst.oneshot.Matrix("w", given.weight, given.inputs, given.sparsity, gradients=of_loss)
    expected = [
        [2.561176, 0.816228, 1.366650, 1.738749],
        [1.129150, 2.689822, 1.829156, 3.427082],
    ]
    np.testing.assert_allclose(dst.GBLM().scores(given)[0].T, expected, atol=1e-6)
    weight, mask = dst.GBLM()(given)
    assert (~np.asarray(mask[0]).T).astype(int).tolist() == [[0, 1, 1, 0], [1, 0, 1, 0]]
    np.testing.assert_array_equal(weight, jnp.where(mask, given.weight, 0))
    wanda = dst.Wanda().scores(given)
    np.testing.assert_array_equal(dst.GBLM(norm="l1").scores(given), wanda)  # sums are zero here
    np.testing.assert_array_equal(dst.GBLM(scale=0.0).scores(given), wanda)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_gblm_prunes_a_network_as_numpy_does(norm):
    g = gradients()
    size = abs(g).sum(0) if norm == "l1" else np.sqrt((g**2).sum(0))
    inputs = np.sqrt((np.stack(BATCHES).astype(float) ** 2).sum((0, 1, 2)) / 3)
    scores = abs(PARAMS["a"]) * (inputs[:, None] + 10 * size)
    expected = np.argsort(np.argsort(scores, axis=0), axis=0) >= 2
    given = {"forward": forward, "loss": loss, "batches": BATCHES, "select": "a"}
    pruned, masks = dst.prune(PARAMS, 0.5, method=dst.GBLM(10.0, norm), **given)
    np.testing.assert_array_equal(masks["a"], expected)
    np.testing.assert_array_equal(pruned["a"], np.where(expected, PARAMS["a"], 0))
    # A method that is made of it reads the loss, too.
    both = dst.prune(PARAMS, 0.5, method=dst.SparseGPT(block=4, mask=dst.GBLM(10.0, norm)), **given)
    np.testing.assert_array_equal(both[1]["a"], expected)


def test_divergence_is_that_of_the_softmax():
    other = {**PARAMS, "a": PARAMS["a"] * 0.5}
    logits = [
        forward({k: v.astype(float) for k, v in p.items()}, BATCHES[0]) for p in (PARAMS, other)
    ]
    dense, sparse = (y - np.log(np.exp(y).sum(-1, keepdims=True)) for y in map(np.asarray, logits))
    expected = (np.exp(dense) * (dense - sparse)).sum(-1).mean()
    found = divergence(forward, PARAMS)
    assert float(found(other, BATCHES[0])) == pytest.approx(expected, rel=1e-4)
    assert float(found(PARAMS, BATCHES[0])) == 0


def test_bad_losses_are_named():
    given = {"forward": forward, "batches": BATCHES, "select": "a", "method": dst.GBLM()}
    with pytest.raises(ValueError, match="GBLM reads the loss: give loss="):
        dst.prune(PARAMS, 0.5, **given)
    with pytest.raises(ValueError, match="ECoFLaP reads the loss: give loss="):
        dst.prune(PARAMS, 0.5, **{**given, "method": dst.Wanda()}, allocation=dst.ECoFLaP())
    with pytest.raises(ValueError, match="GBLM looks at calibration data"):
        dst.prune(PARAMS, 0.5, method=dst.GBLM(), loss=loss)
    with pytest.raises(ValueError, match="to return one number.*Take the mean"):
        dst.prune(PARAMS, 0.5, loss=forward, **given)
    with pytest.raises(ValueError, match="a finite gradient of a, found NaN"):
        dst.prune(PARAMS, 0.5, loss=lambda p, x: jnp.sqrt((p["a"] * 0).sum()), **given)
    with pytest.raises(ValueError, match="w: this method reads gradients of the loss"):
        dst.GBLM()(matrix(W, X))
    for settings in ({"scale": -1.0}, {"norm": "l3"}):
        with pytest.raises(ValueError, match="of GBLM must be"):
            dst.GBLM(**settings)
