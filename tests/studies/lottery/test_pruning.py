"""Laws of pruning: exact counts, nested masks, the smallest weights go."""

from __future__ import annotations

import numpy as np
import pytest

from dst.studies.lottery import Line, Tickets, instability, line, prune, random_masks, remaining
from dst.studies.lottery.search import best

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "a/kernel": RANDOM.normal(size=(12, 7)).astype(np.float32),
    "b/kernel": 3 * RANDOM.normal(size=(5, 8)).astype(np.float32),
    "layers/kernel": RANDOM.normal(size=(3, 6, 5)).astype(np.float32),
}
LEAVES = {"a/kernel": 0, "b/kernel": 0, "layers/kernel": 1}


def test_counts_of_1000_weights_at_20_percent_are_those_of_the_sheet():
    """800, 640, 512, 409, 327 remove the share rounded up; by default it is rounded down."""
    assert [remaining(1000, 0.2, r, "ceil") for r in range(6)] == [1000, 800, 640, 512, 409, 327]
    assert [remaining(1000, 0.2, r) for r in range(6)] == [1000, 800, 640, 512, 410, 328]
    # int(90 * 0.7) is 62 in doubles, the exact product is 63.
    assert remaining(90, 0.7, 1) == 27 == remaining(90, 0.7, 1, "ceil")


def test_two_rounds_by_hand():
    """Six weights, floor(.34 * remaining)."""
    settings = Tickets(rounds=2, prune=0.34)
    first = {"w": np.array([0.85, -0.55, 0.14, 0.31, -0.8, 0.5], np.float32)}
    masks = prune(first, None, {"w": 0}, settings, 1)
    assert masks["w"].tolist() == [True, True, False, False, True, True]
    second = {"w": np.array([0.45, -0.65, 0, 0, -0.7, 0.25], np.float32)}
    masks = prune(second, masks, {"w": 0}, settings, 2)
    assert masks["w"].tolist() == [True, True, False, False, True, False]


def _layers(arrays):
    for path, array in arrays.items():
        yield from array if LEAVES[path] else [array]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_each_round_keeps_the_largest_of_the_active_and_exactly_as_many_as_the_formula(
    scope, rounding
):
    settings = Tickets(prune=0.3, scope=scope, rounding=rounding)
    masks, weights = None, WEIGHTS
    for number in (1, 2, 3):
        before = masks or {p: np.ones(w.shape, bool) for p, w in weights.items()}
        masks = prune(weights, masks, LEAVES, settings, number)
        groups = [list(zip(*map(_layers, (weights, before, masks)), strict=True))]
        if scope == "layer":
            groups = [[layer] for layer in groups[0]]
        for group in groups:
            w, old, new = (np.concatenate([x[i].ravel() for x in group]) for i in range(3))
            assert not (new & ~old).any()
            assert new.sum() == remaining(w.size, 0.3, number, rounding)
            order = np.argsort(np.where(old, -np.abs(w), np.inf), kind="stable")
            assert set(np.flatnonzero(new)) == set(order[: new.sum()])
        # What is trained next: other values, zeros where nothing is active.
        weights = {p: RANDOM.normal(size=m.shape).astype(np.float32) * m for p, m in masks.items()}


def test_layers_may_have_rates_of_their_own():
    masks = prune(WEIGHTS, None, LEAVES, Tickets(prune=0.2, overrides={"b/**": 0.1}), 1)
    assert [int(m.sum()) for m in masks.values()] == [84 - 16, 40 - 4, 3 * (30 - 6)]


def test_of_equal_weights_those_of_the_lowest_index_stay():
    masks = prune({"w": np.ones((2, 3), np.float32)}, None, {"w": 0}, Tickets(prune=0.5), 1)
    assert masks["w"].tolist() == [[True, True, True], [False, False, False]]


def test_a_layer_is_never_emptied_silently():
    weights = WEIGHTS | {"b/kernel": WEIGHTS["b/kernel"] * 1e-3}
    settings = Tickets(prune=0.6, scope="global")
    with pytest.raises(ValueError, match="b/kernel would lose all its weights.*min_active"):
        prune(weights, None, LEAVES, settings, 1)
    masks = prune(weights, None, LEAVES, Tickets(prune=0.6, scope="global", min_active=3), 1)
    assert int(masks["b/kernel"].sum()) == 3
    assert sum(int(m.sum()) for m in masks.values()) == remaining(84 + 40 + 90, 0.6, 1)
    with pytest.raises(ValueError, match="min_active is too large: 30 .* make 150"):
        prune(weights, None, LEAVES, Tickets(prune=0.6, scope="global", min_active=30), 1)


def test_random_masks_have_the_counts_of_every_layer():
    masks = prune(WEIGHTS, None, LEAVES, Tickets(prune=0.5, scope="global"), 1)
    drawn = random_masks(masks, 7, LEAVES)
    for mask, other in zip(_layers(masks), _layers(drawn), strict=True):
        assert mask.sum() == other.sum() and (mask != other).any()
    again = random_masks(masks, 7, LEAVES)
    assert all((again[p] == drawn[p]).all() for p in masks)
    assert any((random_masks(masks, 8, LEAVES)[p] != drawn[p]).any() for p in masks)


def test_instability_is_the_barrier_above_both_ends():
    """The largest error less the mean of both ends."""
    errors = [5.0, 5.2, 6.1, 7.9, 9.0, 9.6, 9.1, 7.7, 6.2, 5.4, 5.4]
    assert instability(errors) == pytest.approx(4.4)
    assert instability([0.1, 0.1]) == 0
    with pytest.raises(ValueError, match="two ends"):
        instability([0.1])


def test_a_line_runs_straight_from_one_end_to_the_other():
    """The error is the distance from the middle: known at every position."""
    first, second = {"w": np.float32([0, 0, 2])}, {"w": np.float32([1, 0, 4])}
    seen = []

    def error(weights):
        seen.append(weights["w"])
        return abs(float(weights["w"][0]) - 0.5)

    between = line(error, first, second, points=5)
    assert isinstance(between, Line) and between.positions == (0, 0.25, 0.5, 0.75, 1)
    assert between.errors == (0.5, 0.25, 0, 0.25, 0.5) and between.instability == 0
    assert (np.array(seen)[:, 1] == 0).all() and np.array(seen)[:, 2].tolist() == [
        2,
        2.5,
        3,
        3.5,
        4,
    ]
    with pytest.raises(ValueError, match="same leaves"):
        line(error, first, {"w": np.zeros(2)}, points=5)


def test_the_best_is_judged_by_what_did_not_choose_it():
    rows = [
        {"run": "a", "accuracy": 0.5, "halves": [0.9, 0.1]},
        {"run": "b", "accuracy": 0.6, "halves": [0.4, 0.8]},
        {"run": "c", "accuracy": 0.4, "halves": [0.5, 0.3]},
    ]
    result = best(rows)
    assert result["chosen"] == ["a", "b"]
    assert result["accuracy"] == pytest.approx((0.1 + 0.4) / 2)
    assert result["mean"] == pytest.approx(0.5) and result["deviation"] == pytest.approx(0.1)
    assert (result["least"], result["most"]) == (0.4, 0.6)


BAD = {
    "no share": ({"prune": 0}, "prune must be above 0"),
    "all at once": ({"prune": 1.0}, "prune must be a number in"),
    "no rounds": ({"rounds": 0}, "rounds must be an integer >= 1"),
    "unknown rewinding": ({"rewind": "back"}, "or one of.*finetune"),
    "rates of layers ranked together": (
        {"scope": "global", "overrides": {"out/**": 0.1}},
        "must be 0 with scope 'global'",
    ),
    "a floor of fixed counts": ({"min_active": 2}, "min_active must be 0"),
    "copies of what is not rewound": (
        {"rewind": "lr", "connectivity": True},
        "rewind to be a step",
    ),
    "part of what is rewound": ({"rewind": 5, "retrain": "50%"}, "retrain must be '100%'"),
    "a rate for nothing": ({"finetune_rate": 0.1}, "finetune_rate must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_contradict_each_other_are_refused(case):
    settings, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        Tickets(**settings)
