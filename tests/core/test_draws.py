"""Laws of random draws by position: their values in NumPy, and that they are as good as chance."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dst.core.draws import uniform
from dst.core.selection import top_k_mask
from tests.reference.draws import uniforms


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4)])
def test_numbers_are_those_of_the_twin(shape):
    for seed in (0, 1, 2**31):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 3)
        drawn = uniform(key, jnp.zeros(shape))
        assert drawn.dtype == jnp.float32
        np.testing.assert_array_equal(drawn, uniforms(key, shape))


def test_places_beyond_32_bits_have_numbers_of_their_own():
    """Shapes alone: such an array does not fit in here."""
    key = jax.random.key(0)

    def rounds(shape):
        like = jax.ShapeDtypeStruct(shape, jnp.float32)
        return str(jax.make_jaxpr(uniform)(key, like)).count(" 16:u32[]")

    assert rounds((4, 2**20, 2**12)) == rounds((2**20, 2**12)) * 3 // 2


def test_a_mesh_changes_no_number():
    key, like = jax.random.key(5), jnp.zeros((16, 24))
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
        placed = jax.device_put(like, NamedSharding(mesh, P("a", "b")))
        with jax.set_mesh(mesh):
            there = jax.jit(uniform)(key, placed)
        np.testing.assert_array_equal(there, uniform(key, like))
    assert there.sharding.spec == P("a", "b")


N, K, DRAWS = 512, 64, 4000


@pytest.fixture(scope="module")
def masks():
    """Many choices of 64 of 512, each with its own key, as topology steps make them."""
    base = jax.random.key(11, impl="threefry2x32")
    keys = jax.vmap(partial(jax.random.fold_in, base))(jnp.arange(DRAWS))
    like = jnp.zeros(N)
    chosen = jax.jit(jax.vmap(lambda key: top_k_mask(uniform(key, like), K)))(keys)
    return np.asarray(chosen, np.float64)


def within(value, expected, deviation, most=4.5):
    assert abs(value - expected) < most * deviation, (value, expected, deviation)


def test_every_place_is_chosen_equally_often(masks):
    p = K / N
    counts = masks.sum(0)
    # Places compete: the counts add up, so one degree of freedom is lost.
    chi2 = ((counts - DRAWS * p) ** 2 / (DRAWS * p * (1 - p))).sum() * (N - 1) / N
    within(chi2 / (N - 1), 1.0, np.sqrt(2 / (N - 1)))


def test_pairs_and_neighbours_are_chosen_as_if_alone(masks):
    together = K * (K - 1) / (N * (N - 1))
    error = np.sqrt(together * (1 - together) / DRAWS)
    for shift in (1, 2, 3, 8, 64, 256):
        neighbours = (masks * np.roll(masks, shift, axis=1)).mean()
        within(neighbours, together, error / np.sqrt(N))
    pairs = masks.T @ masks / DRAWS
    off = pairs[~np.eye(N, dtype=bool)]
    within(off.std(), error, error * 0.01)


def test_choices_of_different_keys_have_nothing_in_common(masks):
    expected, deviation = K * K / N, np.sqrt(K * K / N * (1 - K / N) ** 2 * N / (N - 1))
    for lag in (1, 2, 3, 64):  # neighbouring steps
        overlap = (masks[lag:] * masks[:-lag]).sum(1)
        within(overlap.mean(), expected, deviation / np.sqrt(len(overlap)))
        within(overlap.std(), deviation, deviation * 0.03)


def test_numbers_are_uniform_and_bits_of_neighbours_are_independent():
    drawn = np.asarray(uniform(jax.random.key(3), jnp.zeros(2**20)), np.float64)
    counts, _ = np.histogram(drawn, 256, (0, 1))
    expected = len(drawn) / 256
    within(((counts - expected) ** 2 / expected).sum() / 255, 1.0, np.sqrt(2 / 255))
    bits = np.unpackbits((drawn * 2**24).astype(">u4").view(np.uint8)).reshape(-1, 32)[:, 8:]
    signs = bits.astype(np.float64) * 2 - 1
    error = 1 / np.sqrt(len(signs))
    assert np.abs(signs.mean(0)).max() < 4.5 * error
    for shift in (1, 2, 1024):
        assert np.abs(signs.T @ np.roll(signs, shift, 0) / len(signs)).max() < 5 * error
    for one, other in ((0, 1), (1, 2), (0, 2**31)):  # seeds that differ in one bit
        first, second = (
            np.asarray(uniform(jax.random.key(seed), jnp.zeros(2**18))) - 0.5
            for seed in (one, other)
        )
        correlation = np.corrcoef(first, second)[0, 1]
        within(correlation, 0.0, 1 / np.sqrt(2**18))
