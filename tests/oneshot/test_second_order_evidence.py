"""Evidence: of a trained network, second-order methods lose less of the loss than magnitudes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import dst

ROUNDS = 6
WIDTHS = (64, 48, 32, 10)


def loss(params, batch):
    x, labels = batch
    for i in range(len(WIDTHS) - 1):
        x = x @ params[f"w{i}"] + params[f"b{i}"][None]
        x = jax.nn.relu(x) if i + 2 < len(WIDTHS) else x
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def trained(seed, data):
    """A network of 4928 weights after 1500 steps of Adam."""
    draw = np.random.default_rng(seed)
    params = {}
    for i, (a, b) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
        params[f"w{i}"] = jnp.asarray(draw.normal(size=(a, b)) * np.sqrt(2 / a), jnp.float32)
        params[f"b{i}"] = jnp.zeros(b)
    tx = optax.adam(2e-3)
    picks = jnp.asarray(draw.integers(len(data[1]), size=(1500, 64)))

    def step(state, pick):
        params, inner = state
        gradients = jax.grad(loss)(params, (data[0][pick], data[1][pick]))
        updates, inner = tx.update(gradients, inner, params)
        return (optax.apply_updates(params, updates), inner), None

    return jax.jit(lambda s: jax.lax.scan(step, s, picks)[0][0])((params, tx.init(params)))


def in_rounds(params, sparsity, method, given):
    """Pruned on a cubic ramp, with new gradients in every round, without training."""
    for i in range(1, ROUNDS + 1):
        share = sparsity * (1 - (1 - i / ROUNDS) ** 3)
        params, _ = dst.prune(params, share, method=method, preserve=True, **given)
    return params


@pytest.mark.evidence
@pytest.mark.parametrize("seed", range(3))
def test_a_classifier_of_digits_loses_less_than_by_magnitude(seed):
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
    data, held_out = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
    params = trained(seed, data)
    batches = [(data[0][i : i + 2], data[1][i : i + 2]) for i in range(0, 1024, 2)]
    given = {"loss": loss, "batches": batches}

    def after(sparsity, method):
        return float(loss(dst.prune(params, sparsity, method=method, **given)[0], held_out))

    by_magnitude = {s: after(s, dst.Magnitude("global")) for s in (0.8, 0.9)}
    for sparsity, lost in by_magnitude.items():
        assert after(sparsity, dst.CAP()) < 0.75 * lost
    # At once, the quadratic model of single weights holds less far.
    assert after(0.8, dst.OBERT()) < 0.8 * by_magnitude[0.8]
    assert float(loss(in_rounds(params, 0.8, dst.OBERT(), given), held_out)) < (
        0.5 * by_magnitude[0.8]
    )
