"""Laws of N:M matrices as values and indices."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst import forms

PATTERNS = [(1, 2), (2, 4), (4, 8), (1, 4), (3, 8), (2, 3)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_a_matrix_comes_back_bit_for_bit(n, m, dtype):
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(6 * m, 5)), dtype)
    pruned, _ = dst.prune({"w": weight}, 1 - n / m, structure=dst.NM(n, m))
    packed = forms.pack_nm(pruned["w"], n, m)
    assert packed.values.shape == packed.indices.shape == (6 * n, 5)
    assert packed.values.dtype == dtype and packed.indices.dtype == jnp.uint8
    back = forms.unpack_nm(packed, n, m)
    assert back.dtype == dtype
    assert np.asarray(back).tobytes() == np.asarray(pruned["w"]).tobytes()


def test_values_and_places_are_those_of_a_loop():
    random = np.random.default_rng(1)
    weight = random.normal(size=(12, 7)).astype(np.float32)
    for group in weight.reshape(3, 4, 7).transpose(0, 2, 1).reshape(-1, 4):
        group[random.permutation(4)[: random.integers(2, 5)]] = 0
    weight[:4][:, 0] = 0  # a group without weights
    weight = np.where(dst.prune({"w": weight}, 0.5, structure=dst.NM(2, 4))[1]["w"], weight, 0)
    packed = forms.pack_nm(jnp.asarray(weight), 2, 4)
    for g in range(3):
        for o in range(7):
            column = weight[4 * g : 4 * g + 4, o]
            places = [i for i in range(4) if column[i]]
            free = [i for i in range(4) if not column[i]]
            places = sorted([*places, *free][:2])
            assert packed.indices[2 * g : 2 * g + 2, o].tolist() == places
            assert packed.values[2 * g : 2 * g + 2, o].tolist() == column[places].tolist()


@pytest.mark.parametrize(
    ("weight", "n", "m", "message"),
    [
        (np.ones((8, 2)), 2, 4, "must be 2:4, found 4 weights in a group of 4 inputs"),
        (np.ones((6, 2)), 2, 4, "inputs that 4 divides"),
        (np.ones((4, 2, 2)), 2, 4, "inputs, outputs"),
        (np.ones((4, 2)), 4, 4, "m must be an integer >= 5"),
        (np.ones((4, 2)), 0, 4, "n must be an integer >= 1"),
    ],
)
def test_other_matrices_are_refused(weight, n, m, message):
    with pytest.raises(ValueError, match=message):
        forms.pack_nm(jnp.asarray(weight), n, m)


def test_values_without_their_indices_are_refused():
    packed = forms.pack_nm(jnp.zeros((4, 2)), 2, 4)
    with pytest.raises(ValueError, match="must have one shape"):
        forms.unpack_nm(packed._replace(indices=packed.indices[:1]), 2, 4)
