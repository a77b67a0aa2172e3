"""Matrices that tests of forms share."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

# Inputs, outputs, sparsity: with outputs of no weights, without weights, dense, without rows.
CASES = [
    (40, 24, 0.9),
    (64, 7, 0.99),
    (5, 3, 0.5),
    (8, 8, 1.0),
    (6, 4, 0.0),
    (1, 1, 0.0),
    (0, 3, 0.0),
    (3, 0, 0.0),
]
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def sparse(inputs, outputs, sparsity, dtype=np.float32, seed=0):
    """Normal weights on a random mask; the first output has none where there are others."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(inputs, outputs))
    weight[random.random(weight.shape) < sparsity] = 0
    if outputs > 1:
        weight[:, 0] = 0
    return weight.astype(dtype)


def rows(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bits(array):
    return np.asarray(array).tobytes()


BATCHES = [(), (1,), (6,), (2, 3), (0,)]


def check_products(matrix, weight, *batches):
    """Products are those of NumPy in float64, with several rows and in other shapes."""
    exact = np.asarray(weight, np.float64)
    for batch in batches or ((2,),):
        x = rows(*batch, weight.shape[0])
        y = matrix(x)
        assert y.shape == (*batch, weight.shape[1]) and y.dtype == np.float32
        np.testing.assert_allclose(y, x.astype(np.float64) @ exact, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(y, x @ matrix)
