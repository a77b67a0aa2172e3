"""Laws of transposable N:M masks: N of M both ways, the best pattern, or the greedy one, filled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.core.tree import Leaf
from dst.rules.transposable import patterns
from tests.reference import transposable as loops
from tests.runs import QUICK, quick

# The best pattern of 2:4 has the sum 41, the greedy one 33.
TABLE = np.array([[7, 3, 1, 7], [5, 0, 0, 7], [8, 1, 8, 9], [1, 1, 1, 3]], np.float32)
BEST = [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]]
GREEDY = [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0]]
# The greedy choice takes the four large weights, then (0, 0): row 0 and column 0 stay short. The
# swap that costs least gives up (1, 1), and takes (0, 1) and (1, 0).
SHORT = np.array([[3, 1, 1], [1, 5, 8], [1, 8, 8]], np.float32)
FILLED = [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
# name: shape, axes, stacked axes
LEAVES = {
    "matrix": ((8, 16), "i o", 0),
    "torch": ((8, 16), "o i", 0),
    "window": ((3, 1, 4, 8), "k k i o", 0),
    "two_inputs": ((2, 4, 8), "i i o", 0),
    "two_outputs": ((8, 2, 4), "i o o", 0),
    "stacked": ((2, 8, 8), "i o", 1),
}
AXES = {name: axes for name, (_, axes, _) in LEAVES.items()}
RANDOM = np.random.default_rng(11)


def marks(scores, n, m, search="auto", axes="i o", stacked=0):
    leaf = Leaf("w", scores.shape, scores.dtype, True, "", stacked, axes)
    layout = dst.TransposableNM(n, m, search).layout(leaf)
    pool = jax.jit(layout.pool, compiler_options=QUICK)
    return np.asarray(pool(jnp.asarray(scores))).reshape(scores.shape)


def numbers(*shape):
    """With ties; every sum is exact."""
    return (RANDOM.integers(0, 9, shape) / 4).astype(np.float32)


def test_the_best_and_the_greedy_pattern_are_those_worked_out_by_hand():
    assert marks(TABLE, 2, 4).tolist() == BEST and (TABLE * BEST).sum() == 41
    assert marks(TABLE, 2, 4, "greedy").tolist() == GREEDY and (TABLE * GREEDY).sum() == 33
    assert not loops.greedy(SHORT, 2, fill=False)[0, 1:].any()
    assert marks(SHORT, 2, 3, "greedy").tolist() == FILLED
    assert marks(-TABLE, 2, 4).sum() == 8  # also where no score is positive


def test_there_are_ninety_patterns_of_two_in_four():
    """As many as the list of huyz2023/2by4-pretrain, sparse/transposable_semi_structured.py."""
    found = patterns(2, 4)
    assert len({x.tobytes() for x in found}) == 90
    assert (found.sum(1) == 2).all() and (found.sum(2) == 2).all()


@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4)])
def test_the_exact_search_equals_plain_loops(n, m):
    scores = numbers(3 * m, 3 * m)
    np.testing.assert_array_equal(marks(scores, n, m), loops.by_blocks(loops.exact, scores, n, m))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 6), (3, 6), (4, 8), (7, 8)])
def test_the_greedy_search_equals_plain_loops(n, m):
    scores = numbers(8 * m, 8 * m)
    found = marks(scores, n, m, "greedy")
    np.testing.assert_array_equal(found, loops.by_blocks(loops.greedy, scores, n, m))
    if n not in (1, m):
        first = loops.by_blocks(lambda x, k: loops.greedy(x, k, fill=False), scores, n, m)
        assert first.sum() < found.sum() == scores.size * n // m, "no block was filled by swaps"


def test_a_greedy_pattern_without_swaps_has_half_of_the_best_sum():
    for block in numbers(40, 4, 4):
        first, best = loops.greedy(block, 2, fill=False), loops.exact(block, 2)
        assert 2 * block[first].sum() >= block[best].sum()


@pytest.mark.parametrize("name", LEAVES)
def test_blocks_lie_along_all_inputs_and_all_outputs(name):
    shape, axes, stacked = LEAVES[name]
    found = marks(numbers(*shape), 2, 4, axes=axes, stacked=stacked)
    letters = "s" * stacked + axes.replace(" ", "")
    order = sorted(range(len(shape)), key=lambda a: "skio".index(letters[a]))
    sides = [int(np.prod([shape[a] for a in order if letters[a] == x])) for x in "io"]
    rows, columns = sides
    flat = found.transpose(order).reshape(-1, rows // 4, 4, columns // 4, 4)
    assert (flat.sum(2) == 2).all() and (flat.sum(4) == 2).all()


def test_a_block_with_a_nan_score_has_no_pattern_and_infinite_scores_are_in_it():
    scores = numbers(4, 12)
    scores[1, 2], scores[3, 6], scores[0, 7] = np.nan, np.inf, np.inf
    found = marks(scores, 2, 4)
    assert np.isnan(found[:, :4]).all() and not np.isnan(found[:, 4:]).any()
    assert found[3, 6] == found[0, 7] == 1


def test_a_block_that_becomes_nan_keeps_its_mask():
    tx = quick(dst.sparsify(optax.sgd(1.0), dst.TSRSTE(every=1)))
    params = {"w": jnp.asarray(np.tile(TABLE, 2))}
    state = tx.init(params)
    before = dst.masks(state)["w"]
    grads = {"w": jnp.zeros((4, 8)).at[0, 0].set(jnp.nan).at[:, 4:].set(-jnp.asarray(TABLE.T))}
    _, state = tx.update(grads, state, dst.apply_masks(params, state))
    after = dst.masks(state)["w"]
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert (np.asarray(after[:, 4:]) == loops.exact(TABLE + TABLE.T, 2)).all()


@pytest.mark.parametrize("method", [dst.Magnitude(), dst.Wanda()])
@pytest.mark.parametrize("preserve", [False, True])
def test_one_shot_pruning_chooses_the_best_patterns(method, preserve):
    weight, x = np.where(RANDOM.random((8, 12)) < 0.2, 0, numbers(8, 12) + 1), numbers(16, 8)
    scores = weight
    if isinstance(method, dst.Wanda):
        scores = weight * np.sqrt(np.square(x).sum(0, dtype=np.float32))[:, None]
    params, masks = dst.prune(
        {"w": jnp.asarray(weight, jnp.float32)},
        0.5,
        method=method,
        structure=dst.TransposableNM(2, 4),
        forward=lambda p, x: x @ p["w"],
        batches=[jnp.asarray(x)],
        preserve=preserve,
    )
    mask = loops.by_blocks(loops.exact, scores.astype(np.float32), 2, 4)
    np.testing.assert_array_equal(params["w"], np.where(mask, weight, 0))
    np.testing.assert_array_equal(masks["w"], mask & (weight != 0) if preserve else mask)


HALF = {"sparsity": 0.5, "structure": dst.TransposableNM(2, 4)}
WHOLE = {
    "static": dst.Static(**HALF),
    "ac-dc": dst.ACDC(**HALF, allocation="uniform", every=1, start=1, stop=3),
    "edge-popup": dst.EdgePopup(**HALF),
    "top-kast": dst.TopKAST(0.5, 0.25, structure=dst.TransposableNM(2, 4)),
    "t-sr-ste": dst.TSRSTE(every=1),
}


CHEAP = ("static", "ac-dc")


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x in CHEAP else pytest.mark.evidence) for x in WHOLE]
)
def test_methods_that_choose_whole_patterns_take_the_structure(name):
    tx = quick(dst.sparsify(optax.sgd(0.1), WHOLE[name]))
    params = {"w": jnp.asarray(RANDOM.normal(size=(8, 8)), jnp.float32)}
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    for _ in range(4):
        mask = np.asarray(dst.masks(state)["w"]).reshape(2, 4, 2, 4)
        assert mask.all() or ((mask.sum(1) == 2).all() and (mask.sum(3) == 2).all())
        grads = {"w": jnp.asarray(RANDOM.normal(size=(8, 8)), jnp.float32)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert dst.masks(state)["w"].sum() == 32
    dst.check_invariants(state, params)


def test_methods_that_move_single_connections_are_refused():
    params = {"w": jnp.ones((8, 8))}
    for method in (
        dst.RigL(**HALF, rounding="ceil", every=1, stop=10),
        dst.GMP(**HALF, every=1, start=0, stop=4),
        dst.Movement(**HALF, start=0, stop=10),
    ):
        with pytest.raises(ValueError, match="w: a transposable pattern keeps 2 of 4, or all"):
            dst.sparsify(optax.sgd(0.1), method, steps=20).init(params)


def test_masks_of_the_user_must_have_the_pattern():
    params = {"w": jnp.asarray(TABLE)}
    method = dst.Static(**HALF)
    mask = np.array(BEST, bool)
    state = dst.sparsify(optax.sgd(0.1), method, initial={"w": mask}).init(params)
    np.testing.assert_array_equal(dst.masks(state)["w"], mask)
    with pytest.raises(ValueError, match="w must keep 2 of 4 along inputs and outputs"):
        dst.sparsify(optax.sgd(0.1), method, initial={"w": np.sort(mask, 0)}).init(params)


def test_bad_patterns_are_named():
    with pytest.raises(ValueError, match="for m up to 4; got 4:8. Use 'greedy'"):
        dst.TransposableNM(4, 8, "exact")
    with pytest.raises(ValueError, match="search of TransposableNM"):
        dst.TransposableNM(2, 4, "best")
    with pytest.raises(ValueError, match="m of TransposableNM"):
        dst.TransposableNM(4, 4)
    with pytest.raises(ValueError, match="outputs in multiples of 4"):
        dst.sparsify(optax.sgd(0.1), dst.TSRSTE()).init({"w": jnp.ones((8, 6))})
