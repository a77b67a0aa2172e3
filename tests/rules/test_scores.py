"""Laws of the scores that rank connections."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dst.rules import scores
from tests.reference.canonical import G, M, W

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def canonical(**changes):
    fields = {
        "weight": jnp.asarray(W),
        "grad": jnp.asarray(G),
        "active": jnp.asarray(M),
        "explored": jnp.asarray(M),
        "key": jax.random.key(0),
    }
    return scores.Connections(**{**fields, **changes})


def test_magnitude_and_gradient_are_absolute_values():
    np.testing.assert_array_equal(scores.magnitude(canonical()), np.abs(W))
    np.testing.assert_array_equal(scores.gradient(canonical()), np.abs(G))


def test_random_scores_depend_on_the_key_only():
    first = scores.random(canonical())
    np.testing.assert_array_equal(first, scores.random(canonical(weight=jnp.zeros((3, 4)))))
    assert (first != scores.random(canonical(key=jax.random.key(1)))).any()
    assert ((first >= 0) & (first < 1)).all() and first.dtype == jnp.float32


def test_what_was_never_tried_comes_before_what_was():
    tried = jnp.asarray(M | (np.arange(4) < 2))
    values = scores.random_unexplored(canonical(explored=tried))
    assert values[~tried].min() >= 1 > values[tried].max()
