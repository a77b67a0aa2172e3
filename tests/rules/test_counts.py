"""Laws of counts computed on the device, of sums, and of selections over several layers."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import dst
from dst.core import selection
from dst.core.reductions import exact_sum
from dst.core.tree import survey
from dst.engine.hard_plan import plan_of
from dst.rules import counts
from dst.rules.rule import HowMany, Rule
from tests.core.test_selection import NASTY
from tests.reference import selection as twin
from tests.reference.snfs import apportion as apportioned
from tests.runs import QUICK

pytestmark = pytest.mark.usefixtures("strict_dtypes")

quick = partial(jax.jit, compiler_options=QUICK)
exchange = quick(counts.exchanged, static_argnames="rounding")
apportion = quick(counts.apportion)

# Integers


@pytest.mark.parametrize("rounding", ("floor", "ceil", "round"))
@example(thousandths=940, seed=0)  # 1075 * 0.94 is 1010.5; in double precision it is less
@given(thousandths=st.integers(0, 1000), seed=st.integers(0, 2**16))
def test_counts_on_the_device_equal_those_of_the_host(rounding, thousandths, seed):
    """Of up to a million weights, where thousandths of them are whole or clearly are not."""
    fraction = thousandths / 1000
    rule = Rule(0.5, how_many=HowMany(fraction=dst.constant(fraction), rounding=rounding))
    random = np.random.default_rng(seed)
    active = np.concatenate(
        [[50, 1075], np.arange(14), random.integers(0, 10 ** random.integers(1, 7, 48))]
    )
    dropped = exchange(active.astype(np.int32), counts.fixed_point(fraction), rounding=rounding)
    assert dropped.tolist() == [rule.exchanged(int(n), 0) for n in active]
    exact = [Fraction(thousandths, 1000) * int(n) for n in active]
    towards = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round": lambda x: math.floor(x + Fraction(1, 2)),
    }
    assert dropped.tolist() == [towards[rounding](x) for x in exact]


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_counts_of_large_layers_do_not_overflow(fraction):
    active = np.array([2**31 - 1, 2**31 - 4, 2**30, 65536 * 32767], np.int32)
    dropped = exchange(active, counts.fixed_point(fraction), rounding="floor")
    np.testing.assert_allclose(dropped, active.astype(np.float64) * fraction, atol=1.0)


LAYERS = 4
AMOUNTS = st.lists(st.integers(0, 200), min_size=LAYERS, max_size=LAYERS)


@given(
    soft=AMOUNTS,
    more=AMOUNTS,
    parts=st.lists(st.integers(0, 64), min_size=LAYERS, max_size=LAYERS),
    part=st.integers(0, 64),
)
def test_apportioned_amounts_add_up_within_their_limits(soft, more, parts, part):
    hard = [a + b for a, b in zip(soft, more, strict=True)]
    amount = sum(hard) * part // 64
    share = np.array(parts, np.float32) / np.float32(max(sum(parts), 1))
    arrays = [np.array(x, np.int32) for x in (amount, soft, hard)]
    numbers = apportion(arrays[0], share, *arrays[1:]).tolist()
    assert sum(numbers) == amount
    assert all(0 <= n <= limit for n, limit in zip(numbers, hard, strict=True))
    if amount <= sum(soft):
        assert all(n <= limit for n, limit in zip(numbers, soft, strict=True))
    assert numbers == apportioned(amount, [float(s) for s in share], soft, hard)


@pytest.mark.parametrize(("share", "amount"), [((0.25, 0.75), 100), ((0.5, 0.5), 7)])
def test_whole_shares_stay_whole(share, amount):
    limits = np.array([1000, 1000], np.int32)
    numbers = apportion(np.int32(amount), np.array(share, np.float32), limits, limits)
    assert numbers.tolist() == [math.ceil(amount * share[0]), math.floor(amount * share[1])]


@settings(max_examples=10)
@given(
    shapes=st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9)), min_size=2, max_size=5),
    hundredths=st.integers(30, 70),
)
def test_layers_that_compete_have_one_budget_at_every_step(shapes, hundredths):
    method = dst.GMP(hundredths / 100, allocation="global", every=3, start=0, stop=29)
    params = {f"l{i}": jax.ShapeDtypeStruct(s, jnp.float32) for i, s in enumerate(shapes)}
    rule = method.rule()
    plan = plan_of(survey(params), rule)
    size = sum(a * b for a, b in shapes)
    active = sum(leaf.counts[:, 1] for leaf in plan.sparse.values())
    sparsities = [rule.how_many.ramp(t) * Fraction(hundredths, 100) for t in rule.when.steps()]
    assert active.tolist() == [size - math.floor(s * size) for s in sparsities]


# Sums

SHAPE = (16, 24)
SUMS = {axes: quick(partial(exact_sum, axes=axes)) for axes in [(0, 1), (1,), (0,)]}


@given(seed=st.integers(0, 2**16), spread=st.integers(0, 30), axes=st.sampled_from(list(SUMS)))
def test_a_sum_does_not_depend_on_the_order(seed, spread, axes):
    random = np.random.default_rng(seed)
    x = random.normal(size=SHAPE) * 2.0 ** random.integers(-spread, spread + 1, SHAPE)
    x = x.astype(np.float32)
    order = x.copy()
    for axis in axes:
        order = np.take(order, random.permutation(SHAPE[axis]), axis)
    sums = np.asarray(SUMS[axes](x))
    np.testing.assert_array_equal(sums, SUMS[axes](order))
    largest = np.abs(x).max(axes)
    true = x.astype(np.float64).sum(axes)
    count = math.prod(SHAPE[a] for a in axes)
    assert (np.abs(sums - true) <= count * 2.0**-28 * largest + 2.0**-22 * np.abs(true)).all()


@pytest.mark.parametrize("axes", SUMS)
def test_a_sum_does_not_depend_on_the_mesh(axes):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    random = np.random.default_rng(0)
    x = (random.normal(size=SHAPE) * 2.0 ** random.integers(-9, 9, SHAPE)).astype(np.float32)
    expected = np.asarray(SUMS[axes](x))
    for spec in (P("data", "model"), P(("data", "model"), None), P(None, "model")):
        sums = SUMS[axes](jax.device_put(x, NamedSharding(mesh, spec)))
        np.testing.assert_array_equal(np.asarray(sums), expected)


def test_sums_of_nothing_and_of_infinities_are_ordinary():
    x = jnp.array([[0.0, 0.0], [1e-42, 0.0], [1.0, jnp.inf], [1.0, jnp.nan]])
    np.testing.assert_array_equal(SUMS[(1,)](x)[np.array([0, 2, 3])], [0.0, jnp.inf, jnp.nan])
    assert exact_sum(x, ()) is x


# Selections

FIRST, SECOND = 6, (3, 4)
SIZE = FIRST + math.prod(SECOND)
together = quick(selection.top_k_masks_together)


@given(
    scores=st.lists(st.sampled_from(NASTY), min_size=SIZE, max_size=SIZE),
    where=st.lists(st.booleans(), min_size=SIZE, max_size=SIZE),
    k=st.integers(0, SIZE + 2),
)
def test_a_choice_over_several_arrays_is_that_of_their_concatenation(scores, where, k):
    flat, allowed = np.array(scores, np.float32), np.array(where)
    parts = [(x[:FIRST], x[FIRST:].reshape(SECOND)) for x in (flat, allowed)]
    masks = together(list(parts[0]), np.int32(k), list(parts[1]))
    expected = twin.best(flat, allowed, k)
    np.testing.assert_array_equal(np.concatenate([np.ravel(m) for m in masks]), expected)


GROUPS, MEMBERS = 3, 8


def by_group(scores, k, where):
    return selection.top_k_mask(scores, k, where, group_axes=(0,))


@pytest.fixture(scope="module")
def by_search():
    """The same choice by counting, which small groups do not use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_SMALL", 0)
        shape = (GROUPS, MEMBERS)
        kinds = [(shape, jnp.float32), ((GROUPS,), jnp.int32), (shape, jnp.bool_)]
        return (
            quick(lambda *x: by_group(*x))
            .lower(*[jax.ShapeDtypeStruct(*k) for k in kinds])
            .compile()
        )


by_pairs = quick(by_group)


@given(
    scores=st.lists(st.sampled_from(NASTY), min_size=GROUPS * MEMBERS, max_size=GROUPS * MEMBERS),
    where=st.lists(st.booleans(), min_size=GROUPS * MEMBERS, max_size=GROUPS * MEMBERS),
    k=st.lists(st.integers(0, MEMBERS + 1), min_size=GROUPS, max_size=GROUPS),
)
def test_comparing_pairs_chooses_what_counting_chooses(by_search, scores, where, k):
    arguments = (
        np.array(scores, np.float32).reshape(GROUPS, MEMBERS),
        np.array(k, np.int32),
        np.array(where).reshape(GROUPS, MEMBERS),
    )
    mask = by_pairs(*arguments)
    np.testing.assert_array_equal(mask, by_search(*arguments))
    np.testing.assert_array_equal(mask, twin.top_k_mask(*arguments, (0,)))
