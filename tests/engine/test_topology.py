"""Laws and worked traces of one drop-and-grow."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.core.tree import Leaf
from dst.engine.masks import active, age, explored, first_masks, next_masks
from dst.engine.topology import drop_and_grow
from dst.methods.set import keep_by_sign
from dst.rules import scores
from dst.rules.counts import TopologyInputs
from dst.rules.layout import Layout
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.scores import Connections
from dst.rules.structure import Unstructured
from tests.reference import selection as twin
from tests.reference.canonical import LADDER, G, M, U, W
from tests.reference.exchange import Layer

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def plain(shape):
    return Unstructured().layout(Leaf("w", shape, jnp.float32, sparse=True, why=""))


def rule(regrow_value="keep", ramp=None, **choices):
    which = Which(**{"grow": scores.gradient, **choices})
    how_many = HowMany(ramp=ramp)
    return Rule(0.5, how_many=how_many, which=which, reset=Reset(regrow_value))


@functools.cache
def program(step: Rule, layout: Layout):
    """One compiled exchange, reused for all values of one shape."""

    @jax.jit
    def run(weight, grad, active, kept, total):
        leaf = Connections(weight, grad, active, active, jax.random.key(0))
        return drop_and_grow(
            TopologyInputs([leaf], [layout], ["w"], [kept], [total], jnp.uint32(0), step)
        )[0]

    return run


def exchange(weight, grad, mask, kept, total, step, layout=None):
    weight = jnp.asarray(weight, jnp.float32)
    run = program(step, layout or plain(weight.shape))
    changes = run(
        weight,
        jnp.asarray(grad, jnp.float32),
        jnp.asarray(mask, bool),
        jnp.asarray(kept, jnp.int32),
        jnp.asarray(total, jnp.int32),
    )
    return jax.tree.map(np.asarray, changes)


def moved(weight, change):
    """Weights after the exchange: zero where inactive and where they are reset."""
    return np.where(change.active & ~change.reset, np.asarray(weight, np.float32), 0)


def given_grow_scores(leaf):
    return leaf.grad


# Worked traces

_ALLOW = [[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]]
_FORBID = [[1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("regrow", "regrown", "mask", "weights", "reset"),
    [
        (
            "allow",
            "keep",
            _ALLOW,
            [[0.5, -0.1, 0, 0.8], [0, 0.3, -0.7, 0], [0, 0, 0, -0.4]],
            [(2, 2)],
        ),
        (
            "allow",
            "zero",
            _ALLOW,
            [[0.5, 0, 0, 0.8], [0, 0.3, -0.7, 0], [0, 0, 0, -0.4]],
            [(0, 1), (2, 2)],
        ),
        (
            "forbid",
            "keep",
            _FORBID,
            [[0.5, 0, 0, 0.8], [0, 0.3, -0.7, 0], [0, 0, 0, -0.4]],
            [(1, 0), (2, 2)],
        ),
        (
            "forbid",
            "zero",
            _FORBID,
            [[0.5, 0, 0, 0.8], [0, 0.3, -0.7, 0], [0, 0, 0, -0.4]],
            [(1, 0), (2, 2)],
        ),
    ],
)
def test_a_rigl_step_worked_by_hand(regrow, regrown, mask, weights, reset):
    """By google-research/rigl, rigl/sparse_optimizers_base.py: 7 active weights, 2 dropped. The
    count is that of the mask, not of the weights that are not zero."""
    change = exchange(W, G, M, 5, 7, rule(regrow=regrow, regrow_value=regrown))
    np.testing.assert_array_equal(change.active, np.array(mask, bool))
    np.testing.assert_array_equal(moved(W, change), np.array(weights, np.float32))
    assert [tuple(map(int, x)) for x in np.argwhere(change.reset)] == reset
    distance = int((change.active != M).sum())
    assert distance == (2 if regrow == "allow" else 4)
    assert int(change.dropped) == int(change.grown) == distance // 2
    assert change.active.sum() == 7


def test_momentum_is_zeroed_at_new_connections_only():
    """The buffer of ones after the reset, unmasked."""
    change = exchange(W, G, M, 5, 7, rule())
    after = np.where(change.reset, 0.0, np.ones((3, 4)))
    np.testing.assert_array_equal(after, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]])


@pytest.mark.parametrize(
    ("regrow", "mask"),
    [("allow", M), ("forbid", [[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]])],
)
def test_a_set_step_worked_by_hand(regrow, mask):
    """Where dropped connections may return, a step can change nothing."""
    change = exchange(W, U, M, 5, 7, rule(grow=given_grow_scores, regrow=regrow))
    np.testing.assert_array_equal(change.active, np.array(mask, bool))


@pytest.mark.parametrize(
    ("fraction", "removed"), [(0.3, [(2, 0)]), (0.5, [(0, 1), (1, 1), (2, 0)]), (0.0, [])]
)
def test_the_signed_rule_of_set_as_written(fraction, removed):
    """Floor of the share of each sign, those closest to zero; the code's thresholds
    remove one more of each."""
    leaf = Connections(
        jnp.asarray(W), jnp.asarray(G), jnp.asarray(M), jnp.asarray(M), jax.random.key(0)
    )
    kept = jax.jit(keep_by_sign(fraction))(leaf)
    gone = [tuple(map(int, x)) for x in np.argwhere(M & ~np.asarray(kept))]
    assert gone == removed
    assert not (np.asarray(kept) & ~M).any()


def test_signed_choices_refill_to_the_count():
    step = rule(grow=given_grow_scores, keep=keep_by_sign(0.5))
    change = exchange(W, U, M, 0, 7, step)
    assert change.active.sum() == 7
    assert change.active[0, 1] and not change.active[1, 1]  # .95 returns, .5 does not


@pytest.mark.parametrize(
    ("sparsity_of_12", "mask"),
    [
        (3, [[1, 0, 1, 1], [1, 1, 0, 1], [1, 0, 1, 1]]),
        (6, [[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1]]),
        (9, [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]),
    ],
)
def test_the_pruning_ladder(sparsity_of_12, mask):
    """The zeros are floor(s N), as in google-research/rigl, rigl/sparse_utils.py."""
    left = 12 - sparsity_of_12
    change = exchange(LADDER, G, np.ones((3, 4)), left, left, rule(grow=None))
    np.testing.assert_array_equal(change.active, np.array(mask, bool))
    assert not change.reset.any() and int(change.dropped) == sparsity_of_12
    assert int(change.grown) == 0


def test_pruned_masks_are_nested():
    mask = np.ones((3, 4), bool)
    for left in (9, 6, 3, 1):
        smaller = exchange(LADDER, G, mask, left, left, rule(grow=None)).active
        assert not (smaller & ~mask).any()
        mask = smaller


_JAXPRUNER = np.array([-9, 1, 4, -1, 5, 8, -2, 3], np.float32)


@pytest.mark.parametrize("scale", [1, 1000, 1e-30])
@pytest.mark.parametrize(
    ("dropped", "mask"),
    [
        (0, [0, 1, 0, 1, 0, 1, 1, 0]),
        (1, [1, 1, 0, 1, 0, 1, 0, 0]),
        (2, [1, 1, 0, 0, 1, 1, 0, 0]),
        (3, [1, 0, 1, 0, 1, 1, 0, 0]),
        (4, [1, 0, 1, 0, 1, 1, 0, 0]),
    ],
)
def test_the_scale_of_the_gradient_does_not_matter(dropped, mask, scale):
    """The table of jaxpruner/algorithms/sparse_trainers_test.py, with its signed drop score.
    JaxPruner fails it at drop fraction 0 for gradients of 1e3."""
    before = np.array([0, 1, 0, 1, 0, 1, 1, 0], bool)
    step = rule(drop=signed)
    change = exchange(_JAXPRUNER, _JAXPRUNER * np.float32(scale), before, 4 - dropped, 4, step)
    np.testing.assert_array_equal(change.active, np.array(mask, bool))


def signed(leaf):
    return leaf.weight


def test_a_freshly_grown_zero_weight_beats_inactive_zeros():
    """RigL's noise can keep an inactive place instead."""
    mask = np.array([1, 1, 0, 1], bool)
    change = exchange([0.5, 0, 0, 0.3], np.zeros(4), mask, 3, 3, rule())
    np.testing.assert_array_equal(change.active, mask)
    assert int(change.dropped) == 0


def test_inactive_places_without_gradient_are_grown_before_the_count_shrinks():
    """Codes that multiply scores by the mask grow active places again."""
    mask = np.arange(8) < 4
    change = exchange(np.arange(8.0), np.where(mask, 9.0, 0.0), mask, 2, 4, rule(regrow="forbid"))
    np.testing.assert_array_equal(np.flatnonzero(change.active), [2, 3, 4, 5])


@pytest.mark.parametrize(("inactive", "changed"), [(0, 0), (1, 2), (2, 4), (3, 6), (5, 6)])
def test_a_layer_that_is_almost_dense_keeps_its_count(inactive, changed):
    """Where nothing grows back at once, no more is dropped than was inactive."""
    mask = np.arange(8) >= inactive
    n = 8 - inactive
    change = exchange(np.arange(8.0), np.ones(8), mask, n - 3, n, rule(regrow="forbid"))
    assert change.active.sum() == n
    assert int((change.active != mask).sum()) == changed


def test_kept_weights_of_zero_score_stay():
    """With no drop at all, weights that are exactly zero are still connections."""
    mask = np.arange(8) % 2 == 0
    change = exchange(np.zeros(8), np.ones(8), mask, 4, 4, rule())
    np.testing.assert_array_equal(change.active, mask)
    assert not change.reset.any()


def test_nan_scores_are_counted_and_never_win():
    weights = np.array([1, np.nan, 2, 3, 0, 0, 0, 0])
    grads = np.array([0, 0, 0, 0, np.nan, 1, 2, np.nan])
    change = exchange(weights, grads, np.arange(8) < 4, 3, 4, rule())
    assert np.flatnonzero(change.active).tolist() == [0, 2, 3, 6]
    assert int(change.unscored) == 3


# Explored connections (ITOP)


def test_explored_connections_are_the_union_of_all_masks():
    """R_s .583333, .75, .833333."""
    masks = [M, np.array(_FORBID, bool), np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 0, 0]], bool)]
    mask_bytes = first_masks(jnp.asarray(masks[0]))
    counts = [int(explored(mask_bytes).sum())]
    for mask in masks[1:]:
        mask_bytes = next_masks(mask_bytes, jnp.asarray(mask), jnp.asarray(mask & ~masks[0]))
        np.testing.assert_array_equal(active(mask_bytes), mask)
        counts.append(int(explored(mask_bytes).sum()))
    assert counts == [7, 9, 10]
    assert [n / 12 for n in counts] == pytest.approx([0.583333, 0.75, 0.833333], abs=1e-6)


def test_ages_count_topology_steps_since_a_weight_was_grown():
    always, never = jnp.array([True, True]), jnp.array([False, False])
    mask = first_masks(jnp.array([True, False]))
    mask = next_masks(mask, always, jnp.array([False, True]))
    assert age(mask).tolist() == [63, 0]
    for _ in range(70):
        mask = next_masks(mask, always, never)
    assert age(mask).tolist() == [63, 63]
    assert active(mask).all() and explored(mask).all()


# Invariants of every drop-and-grow

SHAPE = (4, 5)
RULES = {
    choice: rule(regrow=choice[0], regrow_value=choice[1])
    for choice in itertools.product(("allow", "forbid"), ("keep", "zero"))
}
TENSORS = st.lists(st.integers(-3, 3), min_size=20, max_size=20).map(
    lambda x: np.array(x, np.float32).reshape(SHAPE)
)
MASKS = st.lists(st.booleans(), min_size=20, max_size=20).map(lambda x: np.array(x).reshape(SHAPE))


@pytest.mark.parametrize("choice", list(RULES), ids="-".join)
@given(weights=TENSORS, grads=TENSORS, mask=MASKS, share=st.integers(0, 10))
def test_every_exchange_keeps_the_invariants(choice, weights, grads, mask, share):
    weights = np.where(mask, weights, 0)
    n = int(mask.sum())
    kept = n - n * share // 10
    change = exchange(weights, grads, mask, kept, n, RULES[choice])
    after, magnitude, slope = change.active, np.abs(weights), np.abs(grads)
    allowed = choice[0] == "allow"

    if not allowed:  # no more are dropped than can grow elsewhere
        kept = max(kept, n - int((~mask).sum()))
    keep = twin.best(magnitude, mask, kept)
    candidates = ~keep if allowed else ~mask
    grown = twin.best(slope, candidates, n - kept)
    np.testing.assert_array_equal(after, keep | grown)

    assert after.sum() == n  # I1
    assert not (keep & ~mask).any() and not (keep & ~after).any()  # I2
    assert not (keep & grown).any()  # I3
    new = moved(weights, change)
    assert (new[~after] == 0).all()  # I4
    assert (new[after & ~mask] == 0).all() and not (after & ~mask & ~change.reset).any()  # I5
    if not allowed:
        assert not (grown & mask).any()  # I6
    if keep.any() and (mask & ~keep).any():
        assert magnitude[keep].min() >= magnitude[mask & ~keep].max()  # I7
    if grown.any() and (candidates & ~grown).any():
        assert slope[grown].min() >= slope[candidates & ~grown].max()  # I8
    if kept == n:
        np.testing.assert_array_equal(after, mask)  # I9
    again = exchange(weights, grads, mask, kept, n, RULES[choice])
    np.testing.assert_array_equal(again.active, after)  # I11
    assert int(change.dropped) == (mask & ~after).sum()
    assert int(change.grown) == (after & ~mask).sum()
    fresh = grown if choice[1] == "zero" else grown & ~mask
    np.testing.assert_array_equal(change.reset, fresh)
    old = first_masks(jnp.asarray(mask))
    tried = explored(next_masks(old, jnp.asarray(after), jnp.asarray(fresh)))
    np.testing.assert_array_equal(tried, mask | after)  # I12


@pytest.mark.parametrize("choice", list(RULES), ids="-".join)
@given(weights=TENSORS, grads=TENSORS, mask=MASKS, share=st.integers(0, 10))
def test_an_exchange_equals_its_twin_in_plain_loops(choice, weights, grads, mask, share):
    layer = Layer.start(weights, mask)
    n = sum(layer.mask)
    kept = n - n * share // 10
    regrow, regrown = choice
    before = layer.weights.copy().reshape(SHAPE)
    change = exchange(before, grads, mask, kept, n, RULES[choice])
    slope = np.abs(grads).reshape(-1)
    fresh = layer.exchange(kept, n, np.abs(layer.weights), slope, regrow, regrown)
    assert change.active.reshape(-1).tolist() == layer.mask
    assert np.flatnonzero(change.reset).tolist() == sorted(fresh)
    np.testing.assert_array_equal(moved(before, change).reshape(-1), layer.weights)


def test_many_leaves_at_once_equal_one_at_a_time():
    random = np.random.default_rng(5)
    shapes = [(4, 5), (7,), (2, 3, 4)]
    leaves, kept, total = [], [], []
    for shape in shapes:
        mask = random.random(shape) < 0.5
        weight = np.where(mask, random.integers(-2, 3, shape), 0).astype(np.float32)
        grad = random.integers(-2, 3, shape).astype(np.float32)
        leaves.append((weight, grad, mask))
        kept.append(mask.sum() // 2)
        total.append(mask.sum())
    layouts = [plain(s) for s in shapes]

    @jax.jit
    def together(leaves):
        connections = [Connections(w, g, m, m, jax.random.key(0)) for w, g, m in leaves]
        counts = (
            [jnp.asarray(k, jnp.int32) for k in kept],
            [jnp.asarray(n, jnp.int32) for n in total],
        )
        return drop_and_grow(
            TopologyInputs(connections, layouts, list("abc"), *counts, jnp.uint32(0), rule())
        )

    changes = together([tuple(map(jnp.asarray, leaf)) for leaf in leaves])
    for change, (w, g, m), k, n in zip(changes, leaves, kept, total, strict=True):
        np.testing.assert_array_equal(change.active, exchange(w, g, m, k, n, rule()).active)


def test_stacked_slices_have_counts_of_their_own():
    random = np.random.default_rng(6)
    shape = (3, 4, 5)
    layout = Layout(shape, shape, groups=(0,), counts=(3,))
    mask = np.arange(20).reshape(4, 5) < np.array([4, 10, 16])[:, None, None]
    weight = np.where(mask, random.integers(1, 5, shape), 0).astype(np.float32)
    grad = random.integers(-4, 5, shape).astype(np.float32)
    kept, total = np.array([2, 10, 8]), np.array([4, 10, 12])
    change = exchange(weight, grad, mask, kept, total, rule(), layout)
    assert change.active.sum((1, 2)).tolist() == [4, 10, 12]
    for i in range(3):
        alone = exchange(weight[i], grad[i], mask[i], kept[i], total[i], rule())
        np.testing.assert_array_equal(change.active[i], alone.active)
        assert (change.dropped[i], change.grown[i]) == (alone.dropped, alone.grown)


# Any structure that can be written as a layout works unchanged


def test_blocks_are_switched_as_wholes():
    random = np.random.default_rng(7)
    layout = Layout(shape=(6, 8), split=(3, 2, 4, 2), members=(1, 3))
    blocks = np.arange(12).reshape(3, 4) % 2 == 0
    mask = np.kron(blocks, np.ones((2, 2), bool))
    weight = np.where(mask, random.integers(-3, 4, (6, 8)), 0).astype(np.float32)
    grad = random.integers(-3, 4, (6, 8)).astype(np.float32)
    change = exchange(weight, grad, mask, 4, 6, rule(), layout)

    def pooled(x):
        return np.abs(x).reshape(3, 2, 4, 2).sum((1, 3))

    keep = twin.best(pooled(weight), blocks, 4)
    after = keep | twin.best(pooled(grad), ~keep, 2)
    np.testing.assert_array_equal(change.active, np.kron(after, np.ones((2, 2), bool)))
    assert int(change.dropped) == 4 * (blocks & ~after).sum()
    np.testing.assert_array_equal(change.reset, np.kron(after & ~blocks, np.ones((2, 2), bool)))


def test_n_of_m_counts_are_exact_in_every_group():
    random = np.random.default_rng(8)
    layout = Layout(shape=(8, 3), split=(2, 4, 3), groups=(0, 2))
    mask = np.tile(np.array([1, 0, 0, 1], bool)[None, :, None], (2, 1, 3)).reshape(8, 3)
    weight = np.where(mask, random.integers(1, 4, (8, 3)), 0).astype(np.float32)
    grad = random.integers(-3, 4, (8, 3)).astype(np.float32)
    change = exchange(weight, grad, mask, 1, 2, rule(), layout)
    assert (change.active.reshape(2, 4, 3).sum(1) == 2).all()
    for row, column in itertools.product(range(2), range(3)):
        at = slice(4 * row, 4 * row + 4), column
        keep = twin.best(np.abs(weight[at]), mask[at], 1)
        expected = keep | twin.best(np.abs(grad[at]), ~keep, 1)
        np.testing.assert_array_equal(change.active[at], expected)
