"""Spartan: numbers by hand, a twin with Sinkhorn's iterations, and autodiff through them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import dst
from tests.methods.latent import column, drawn, follow, momentum, trained
from tests.reference.spartan import Spartan
from tests.runs import quick


def test_spartan_by_hand():
    """Of two weights one is in use: ``m`` is ``sigmoid(+-beta (0.7 - 0.3) / 2)``. Descent at 1."""
    method = dst.Spartan(0.5, first_beta=5.0, last_beta=5.0, warm=0, freeze=9)
    weight, grad = column([0.7, -0.3]), column([1.0, 2.0])
    state = dst.sparsify(optax.sgd(1.0), method).init({"w": weight})
    assert dst.masks(state)["w"][:, 0].tolist() == [True, False]
    _, masks, kept = trained(method, weight, grad[None], optax.sgd(1.0))
    # m = 0.731059, 0.268941; m (1 - m) = 0.196612; g w = 0.7, -0.6 with the mean 0.05;
    # 5 * 0.196612 * 0.65 = 0.638989, towards a larger |w| of the first.
    expected = [0.7 - 0.731059 - 0.638989, -0.3 - 0.537883 - 0.638989]
    np.testing.assert_allclose(kept["latent"][1, :, 0], expected, atol=2e-6)
    assert masks[1, :, 0].tolist() == [False, True]


@pytest.mark.parametrize("warm", [0, 6])
def test_spartan_equals_its_twin(warm):
    weights, grads = drawn(3)
    method = dst.Spartan(0.6, first_beta=1.0, last_beta=9.0, warm=warm, freeze=14)

    def keep(count):
        share = min(count / warm, 1) if warm else 1
        return 30 - int(0.6 * share * 30 + 1e-9)

    twin = Spartan(
        weights.astype(np.float64), keep, lambda t: 1 + 8 * min(t / 14, 1), 14, momentum()
    )
    found = trained(method, weights, grads)
    follow(found, twin, grads, lambda x: {"latent": x.weights})
    masks = found[1]
    assert (masks[14:] == masks[14]).all()
    assert masks.sum((1, 2)).tolist() == [keep(t) for t in range(21)]


@pytest.mark.parametrize("structure", [dst.Unstructured(), dst.Block(2, 2), dst.NM(2, 4)])
def test_spartan_learns_as_autodiff_through_sinkhorn_says(structure):
    random = np.random.default_rng(5)
    weight, grad = (jnp.asarray(random.normal(size=(8, 4)), jnp.float32) for _ in range(2))
    method = dst.Spartan(0.5, first_beta=3.0, last_beta=3.0, warm=0, freeze=5, structure=structure)
    h, w = (2, 2) if isinstance(structure, dst.Block) else (1, 1)

    def grouped(x):
        if isinstance(structure, dst.NM):
            return x.reshape(2, 4, 4).transpose(0, 2, 1).reshape(8, 4)
        return x.reshape(1, -1)

    def ungrouped(x, like):
        if isinstance(structure, dst.NM):
            return x.reshape(2, 4, 4).transpose(0, 2, 1).reshape(8, 4)
        return x.reshape(like.shape)

    def loss(x):
        units = jnp.abs(x).reshape(8 // h, h, 4 // w, w).mean((1, 3))
        z = 3.0 * np.sqrt(h * w) * grouped(units)

        def turn(nu, _):
            mu = jnp.log(z.shape[1] / 2) - jax.nn.logsumexp(z + nu, axis=1, keepdims=True)
            nu = -jnp.logaddexp(0.0, z + mu)
            return nu, jnp.exp(z + mu + nu)

        _, plans = lax.scan(turn, jnp.zeros_like(z), None, length=150)
        share = ungrouped(plans[-1], units)
        return (grad * x * jnp.repeat(jnp.repeat(share, h, 0), w, 1)).sum()

    tx = quick(dst.sparsify(optax.sgd(1.0), method))
    state = tx.init({"w": weight})
    _, after = tx.update({"w": grad}, state, {"w": weight})
    moved = weight - after.variables["w"]["latent"]
    np.testing.assert_allclose(moved, jax.jit(jax.grad(loss))(weight), rtol=1e-3, atol=1e-5)


def test_large_beta_is_a_hard_top_k():
    sizes = np.array([0.1, 0.9, 0.5, 0.7])
    weight = jnp.asarray(sizes, jnp.float32)[:, None]
    method = dst.Spartan(0.5, first_beta=400.0, last_beta=400.0, warm=0, freeze=5)
    params, masks, _ = trained(method, weight, np.zeros((1, 4, 1), np.float32))
    assert masks[1, :, 0].tolist() == [False, True, False, True]
    np.testing.assert_allclose(params[1], np.where(masks[1], weight, 0), rtol=1e-6)


def test_connections_freeze_after_the_sparsity_is_reached():
    with pytest.raises(ValueError, match=r"freeze=5 .* before the end of warm=6"):
        dst.Spartan(0.5, warm=6, freeze=5)
    with pytest.raises(ValueError, match="needs the length of training"):
        dst.Spartan(0.5).rule()
