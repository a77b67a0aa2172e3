"""Laws of CETT and of PPL-p% sparsity: errors by a table, thresholds by search, the bound."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dst.activations import CETT, PPL, Calibration, apply, cett
from dst.activations.cett import largest_threshold, output_norms
from tests.activations.decoders import BATCHES, decoder, recorded

# What enters ``down``, [tokens, hidden], and its kernel, [hidden, width].
X = jnp.array([[1.0, 0.1, -0.05, 2.0], [0.2, 0.0, 0.5, -0.1]])
KERNEL = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
NORMS = [[1.414214, 0.141421, 0.1, 2.828427], [0.282843, 0, 1, 0.141421]]
# Worked out in NumPy: the threshold, the error, the share of neurons that stay.
TABLE = [
    (0.05, 0.0, 0.875),
    (0.12, 0.012984, 0.75),
    (0.2, 0.081009, 0.5),
    (0.3, 0.123849, 0.375),
    (1.2, 0.522488, 0.25),
]


@pytest.mark.parametrize(("threshold", "error", "share"), TABLE)
def test_the_error_is_that_of_the_table(threshold, error, share):
    norms = output_norms(X, KERNEL)
    np.testing.assert_allclose(norms, NORMS, atol=1e-6)
    assert float((norms > threshold).mean()) == share
    np.testing.assert_allclose(cett(X, KERNEL, threshold), error, atol=1e-6)


@pytest.mark.parametrize(("error", "next_norm"), [(0.01, 0.1), (0.1, 0.282843), (0.2, 1.0)])
def test_the_largest_threshold_is_just_below_the_norm_that_is_too_much(error, next_norm):
    found = float(largest_threshold(X, KERNEL, error))
    assert found == pytest.approx(next_norm, rel=1e-5) and float(cett(X, KERNEL, found)) <= error


def test_tokens_without_output_have_no_error():
    x = X.at[1].set(0)
    assert float(cett(x, KERNEL, 0.3)) == pytest.approx(float(cett(X[:1], KERNEL, 0.3)) / 2)


def test_thresholds_are_the_largest_within_the_error():
    model = decoder()
    dense = recorded(model, BATCHES[0], "down")
    kernels = [np.asarray(x.feed_forward.down.kernel.get_value()) for x in model.blocks]
    zeros = apply(model, CETT(0.3), BATCHES[:1])["down"]
    for layer, ((x, whole), kernel) in enumerate(zip(dense, kernels, strict=True)):
        norms = np.abs(x) * np.linalg.norm(kernel, axis=-1)
        within = [0.0]
        for threshold in np.sort(norms, axis=None):
            left_out = np.where(norms > threshold, 0, x) @ kernel
            ratio = np.linalg.norm(left_out, axis=-1) / np.linalg.norm(whole, axis=-1)
            if ratio.mean() <= 0.3:
                within.append((norms <= threshold).mean())
        # The second layer was looked at behind a dense first one.
        assert zeros[layer] == pytest.approx(max(within), abs=0.02 if layer else 2e-3)


def test_perplexity_stays_within_the_percentage():
    model = decoder(layers=1)
    embedding = model.embedding.embedding
    embedding.set_value(embedding.get_value() * 60)  # so that logits matter
    dense = Calibration(model, BATCHES).loss()
    shares = []
    for percent in (0.5, 5.0):
        shares.append(apply(model, PPL(percent, tolerance=0.01), BATCHES)["down"].mean())
        ratio = math.exp(Calibration(model, BATCHES).loss() - dense)
        assert ratio < 1 + percent / 100
    assert 0 < shares[0] < shares[1] < 1
    embedding.set_value(embedding.get_value() * jnp.nan)
    with pytest.raises(ValueError, match="loss of the model without zeros must be finite, got nan"):
        apply(model, PPL(1.0), BATCHES)
