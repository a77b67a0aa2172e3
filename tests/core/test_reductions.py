"""Laws of counts: on one device, too, whatever way they are added."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dst.core.reductions import totals


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1023, 3), (0,)),  # the most that a counter of ten bits holds
        ((1024, 3), (0,)),
        ((5000, 2), (0,)),
        ((70_000, 2), (0,)),  # too many pieces
        ((3, 3, 300, 4), (0, 1, 2)),
        ((2, 2000, 3), (1,)),
        ((40, 40, 2), (0, 1)),  # neither axis fits with the other
        ((600, 700), (0, 1)),
        ((5, 7), ()),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_counts_on_one_device_are_those_of_numpy(shape, axes, count, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    random = np.random.default_rng(0)
    masks = [random.random(shape) < share for share in (1.1, 0.5, 0.9, 0.1)[:count]]
    found = totals([jnp.asarray(m) for m in masks], axes)
    for mask, number in zip(masks, found, strict=True):
        assert number.dtype == jnp.int32
        np.testing.assert_array_equal(number, mask.sum(axes))
