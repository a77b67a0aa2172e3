"""Laws of exact selection, against sorting on the host."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.core.selection import top_k_mask, top_k_masks, top_k_masks_and_short
from tests.reference import selection as twin

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SIZE = 24
NASTY = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-42,
    -1e-42,
    2e-42,
    np.inf,
    -np.inf,
    np.nan,
    3e38,
    1.0000001,
    1e-38,
]


@jax.jit
def choose(scores, k, where):
    """One program for every case of 24 scores."""
    return top_k_mask(scores, k, where)


def chosen(scores, k, where=None):
    scores = np.asarray(scores, np.float32)
    where = np.ones(scores.shape, bool) if where is None else np.asarray(where)
    return np.asarray(choose(jnp.asarray(scores), jnp.int32(k), jnp.asarray(where)))


@given(
    scores=st.lists(st.sampled_from(NASTY), min_size=SIZE, max_size=SIZE),
    where=st.lists(st.booleans(), min_size=SIZE, max_size=SIZE),
    k=st.integers(0, SIZE + 2),
)
def test_the_mask_equals_that_of_a_stable_sort(scores, where, k):
    expected = twin.top_k_mask(np.array(scores, np.float32), k, where)
    np.testing.assert_array_equal(chosen(scores, k, where), expected)


@given(scores=st.lists(st.integers(-3, 3), min_size=SIZE, max_size=SIZE), k=st.integers(0, SIZE))
def test_exactly_k_are_chosen(scores, k):
    mask = chosen(scores, k)
    assert mask.sum() == k
    values = np.array(scores)
    if 0 < k < SIZE:
        assert values[mask].min() >= values[~mask].max()


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, np.inf, -np.inf, 1e-42])
def test_ties_go_to_the_lowest_index(value):
    for k in (0, 1, 7, SIZE - 1, SIZE):
        np.testing.assert_array_equal(chosen(np.full(SIZE, value), k), np.arange(SIZE) < k)


def test_minus_zero_ties_with_zero():
    scores = np.zeros(SIZE, np.float32)
    scores[:12] = -0.0
    np.testing.assert_array_equal(chosen(scores, 5), np.arange(SIZE) < 5)


def test_subnormal_scores_keep_their_order():
    scores = np.float32(1e-42) * np.arange(SIZE, dtype=np.float32)
    assert (scores[1:] > 0).all()
    np.testing.assert_array_equal(chosen(scores, 4), np.arange(SIZE) >= SIZE - 4)


def test_infinities_are_ordinary_scores():
    scores = np.zeros(SIZE, np.float32)
    scores[[3, 20]] = np.inf
    scores[0] = -np.inf
    assert np.flatnonzero(chosen(scores, 2)).tolist() == [3, 20]
    assert not chosen(scores, SIZE - 1)[0]
    assert chosen(scores, SIZE).all()


def test_nan_is_never_chosen():
    scores = np.arange(SIZE, dtype=np.float32)
    scores[[5, 6]] = np.nan
    scores[7] = -np.nan
    mask = chosen(scores, SIZE)
    assert np.flatnonzero(~mask).tolist() == [5, 6, 7]
    assert not chosen(np.full(SIZE, np.nan), 3).any()


def test_no_more_than_the_eligible_are_chosen():
    where = np.arange(SIZE) % 5 == 0
    np.testing.assert_array_equal(chosen(np.zeros(SIZE), SIZE, where), where)
    np.testing.assert_array_equal(chosen(np.zeros(SIZE), SIZE + 9), np.ones(SIZE, bool))
    assert not chosen(np.zeros(SIZE), SIZE, np.zeros(SIZE, bool)).any()


def test_excluded_places_lose_even_to_minus_infinity():
    """An excluded place must not compete with a small score."""
    where = np.arange(SIZE) < 3
    scores = np.where(where, -np.inf, 1.0)
    np.testing.assert_array_equal(chosen(scores, 2, where), np.arange(SIZE) < 2)


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_scores_are_compared_exactly(kind):
    scores = np.random.default_rng(0).normal(size=SIZE).astype(kind)
    scores[4] = scores[17]
    mask = jax.jit(top_k_mask)(jnp.asarray(scores), jnp.int32(9))
    np.testing.assert_array_equal(mask, twin.top_k_mask(scores, 9))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 2), (0, 1), (-1,)])
def test_counts_are_exact_in_every_group(axes):
    random = np.random.default_rng(1)
    scores = random.integers(-2, 3, (3, 4, 5)).astype(np.float32)
    where = random.random((3, 4, 5)) < 0.8
    positive = tuple(a % 3 for a in axes)
    k = random.integers(0, 4, [scores.shape[a] for a in positive]).astype(np.int32)
    mask = jax.jit(lambda s, k, w: top_k_mask(s, k, w, group_axes=axes))(scores, k, where)
    np.testing.assert_array_equal(mask, twin.top_k_mask(scores, k, where, positive))


def test_one_count_serves_all_groups():
    scores = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    mask = jax.jit(lambda s: top_k_mask(s, 2, group_axes=(0,)))(scores)
    assert mask.sum(1).tolist() == [2, 2, 2, 2]


def test_a_batch_of_counts_and_scores_equals_one_after_the_other():
    random = np.random.default_rng(3)
    scores = random.integers(0, 4, (5, SIZE)).astype(np.float32)
    k = np.array([0, 3, 11, 24, 7], np.int32)
    where = random.random((5, SIZE)) < 0.9
    batched = jax.jit(jax.vmap(top_k_mask))(scores, k, where)
    for row, s, n, w in zip(batched, scores, k, where, strict=True):
        np.testing.assert_array_equal(row, chosen(s, n, w))


def test_many_arrays_at_once_equal_one_at_a_time():
    random = np.random.default_rng(4)
    shapes, axes, ks = [(SIZE,), (2, 3), (3, 2, 4), (1,)], [(), (0,), (1,), ()], [20, 1, 5, 1]
    scores = [random.integers(0, 3, s).astype(np.float32) for s in shapes]
    wheres = [None, random.random((2, 3)) < 0.7, None, None]
    together = jax.jit(lambda s, w: top_k_masks(s, ks, w, axes))(scores, wheres)
    for mask, s, k, w, a in zip(together, scores, ks, wheres, axes, strict=True):
        np.testing.assert_array_equal(mask, twin.top_k_mask(s, k, w, a))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0)])
def test_tiny_and_empty_arrays_have_masks_too(shape):
    assert top_k_mask(jnp.ones(shape), 1).sum() == min(1, np.prod(shape, dtype=int))
    assert not top_k_mask(jnp.ones(shape), 0).any()


@pytest.mark.parametrize("kind", [jnp.int32, jnp.uint8])
def test_scores_that_are_no_floats_are_refused(kind):
    with pytest.raises(TypeError, match="floating-point"):
        top_k_mask(jnp.zeros(4, kind), 1)


def test_a_group_beyond_32_bit_counts_is_refused_by_name():
    huge = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
    with pytest.raises(ValueError, match=r"2147483648 scores \(shape \(65536, 32768\)\)"):
        jax.eval_shape(lambda s: top_k_mask(s, 1), huge)
    assert jax.eval_shape(lambda s: top_k_mask(s, 1, group_axes=(0,)), huge).shape == huge.shape


def run_on_one_device(program: str) -> None:
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_one_device_counts_as_many_do():
    """One device counts by a variadic reduction, several by sums; also above 2^24 weights,
    where counts in float32 are wrong."""
    run_on_one_device("""
        import jax, jax.numpy as jnp, numpy as np
        from dst.core.selection import top_k_mask, top_k_masks, top_k_masks_and_short
        from tests.reference import selection as twin

        assert jax.device_count() == 1
        random = np.random.default_rng(0)
        nasty = np.array([0.0, -0.0, 1e-42, -1.0, 1.0, np.inf, -np.inf, np.nan], np.float32)
        choose = jax.jit(lambda s, k, w: top_k_masks([s, s], [k[0], k], [w, None], [(), (1,)]))
        for _ in range(20):
            scores, where = random.choice(nasty, (6, 5)), random.random((6, 5)) < 0.7
            k = random.integers(0, 8, 5).astype(np.int32)
            whole, grouped = choose(scores, k, where)
            np.testing.assert_array_equal(whole, twin.top_k_mask(scores, k[0], where))
            np.testing.assert_array_equal(grouped, twin.top_k_mask(scores, k, None, (1,)))

        n = 2**24 + 999
        index = jnp.arange(n, dtype=jnp.uint32)
        scores = ((index * jnp.uint32(2654435761)) >> 8).astype(jnp.float32)
        choose = jax.jit(top_k_mask)
        for k in (2_516_897, 2**24 + 1):
            assert int(choose(scores, k).sum(dtype=jnp.int32)) == k
        tied = choose(jnp.zeros(n), 2**24 + 1)
        assert bool(tied[: 2**24 + 1].all()) and not bool(tied[2**24 + 1 :].any())
    """)


@pytest.mark.parametrize("size", [SIZE, 5000])
@pytest.mark.parametrize("missing", [0, 3])
def test_groups_with_too_few_candidates_are_told_apart(size, missing):
    """Also where all are asked for: then the search has an end before its first digit."""
    scores = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    scores[1, :missing] = np.nan
    for k in (0, 1, size - missing - 1, size - missing, size - missing + 1, size):
        for axes in ((0,), ()):
            masks, short = top_k_masks_and_short([jnp.asarray(scores)], [k], [None], [axes])
            found = [size, size - missing] if axes else [2 * size - missing]
            np.testing.assert_array_equal(short[0].ravel(), np.array(found) < k)
            assert int(masks[0].sum()) == sum(min(k, n) for n in found)
