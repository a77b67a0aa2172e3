"""Laws of leaves whose active weights stand in a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dst.forms import packed


def test_the_derivative_of_scatter_is_gather():
    mask = np.random.default_rng(0).random((5, 7)) < 0.3
    index = packed.indices(jnp.asarray(mask), int(mask.sum()) + 2)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(5, 7)), jnp.float32)
    values = packed.gather(weight, index)
    np.testing.assert_array_equal(packed.scatter(values, index, (5, 7)), np.where(mask, weight, 0))
    grads = jax.grad(lambda v: (packed.scatter(v, index, (5, 7)) * weight).sum())(values)
    np.testing.assert_array_equal(grads, values)
