"""Laws of one-shot pruning, against plain NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from tests.reference import units as loops

SHAPES = {"first": (12, 8), "second": (8, 20)}
RANDOM = np.random.default_rng(2)
WEIGHTS = {
    n: (RANDOM.normal(size=s) * scale).astype(np.float32)
    for (n, s), scale in zip(SHAPES.items(), (1.0, 0.5), strict=True)
}
PARAMS = {n: {"kernel": jnp.asarray(w), "bias": jnp.ones(w.shape[1])} for n, w in WEIGHTS.items()}
SIZE = sum(w.size for w in WEIGHTS.values())


def lamp(w):
    """Square over the sum of the squares that are not smaller."""
    squares = np.sort(w.astype(np.float64).ravel() ** 2)
    tails = np.cumsum(squares[::-1])[::-1]
    return (
        squares[np.searchsorted(squares, w.astype(np.float64) ** 2)]
        / tails[np.searchsorted(squares, w.astype(np.float64) ** 2)]
    )


def largest(scores, n):
    return scores >= np.sort(scores.ravel())[-n]


EXPECTED = {
    "uniform": lambda: {
        n: largest(abs(w), w.size - int(0.75 * w.size)) for n, w in WEIGHTS.items()
    },
    "global": lambda: together({n: abs(w) for n, w in WEIGHTS.items()}),
    "lamp": lambda: together({n: lamp(w) for n, w in WEIGHTS.items()}),
}


def together(scores):
    bound = np.sort(np.concatenate([s.ravel() for s in scores.values()]))[-(SIZE - SIZE * 3 // 4)]
    return {n: s >= bound for n, s in scores.items()}


@pytest.mark.parametrize("allocation", EXPECTED)
def test_the_largest_weights_stay(allocation):
    pruned, masks = dst.prune(PARAMS, 0.75, allocation=allocation)
    for name, expected in EXPECTED[allocation]().items():
        np.testing.assert_array_equal(masks[f"{name}/kernel"], expected)
        np.testing.assert_array_equal(pruned[name]["kernel"], np.where(expected, WEIGHTS[name], 0))
        np.testing.assert_array_equal(pruned[name]["bias"], PARAMS[name]["bias"])
    assert jax.tree.structure(pruned) == jax.tree.structure(PARAMS)


def test_an_allocation_gives_the_counts_of_training():
    _, masks = dst.prune(PARAMS, 0.8, allocation="erk")
    state = dst.sparsify(optax.sgd(0.1), dst.Static(0.8, allocation="erk")).init(PARAMS)
    for path, mask in dst.masks(state).items():
        assert int(mask.sum()) == int(masks[path].sum())


@pytest.mark.parametrize("structure", [dst.NM(2, 4), dst.Block(4, 2), dst.OutputChannel()])
def test_units_of_a_structure_are_pruned_whole(structure):
    pruned, masks = dst.prune(PARAMS, 0.5, structure=structure)
    for name, w in WEIGHTS.items():
        groups = loops.units(structure, w.shape, "i o")
        keep = {g: len(u) - len(u) // 2 for g, u in groups.items()}
        np.testing.assert_array_equal(masks[f"{name}/kernel"], loops.best(abs(w), groups, keep))
        assert ((pruned[name]["kernel"] != 0) == masks[f"{name}/kernel"]).all()


def test_pruning_twice_changes_nothing_and_keeps_the_dtype():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    once, masks = dst.prune(half, 0.75)
    twice, again = dst.prune(once, 0.75)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b)
    assert all((masks[p] == again[p]).all() for p in masks)


@pytest.mark.parametrize(
    ("sparsity", "options", "match"),
    [
        (75, {}, "sparsity must be a number"),
        (0.5, {"allocation": "globl"}, "global"),
        (0.75, {"structure": dst.NM(2, 4)}, "sparsity must be 0.5"),
        (0.5, {"allocation": "global", "structure": dst.NM(2, 4)}, "no sparsity per layer"),
        (0.5, {"allocation": "global", "structure": dst.ConstantFanIn()}, "fixes the count"),
        (0.5, {"structure": dst.Block(5, 2)}, "multiples of 5"),
        (0.99, {"allocation": "uniform", "structure": dst.OutputChannel()}, None),
    ],
)
def test_what_cannot_be_pruned_is_refused(sparsity, options, match):
    if match is None:  # zeros are rounded down: the last channel stays
        _, masks = dst.prune(PARAMS, sparsity, **options)
        assert {int(m.sum()) for m in masks.values()} == {12, 8}
        return
    with pytest.raises(ValueError, match=match):
        dst.prune(PARAMS, sparsity, **options)
