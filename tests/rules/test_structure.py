"""Laws of layouts: units, groups and members, without merging an axis."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dst.core.tree import Leaf
from dst.rules.layout import Layout
from dst.rules.structure import Unstructured

pytestmark = pytest.mark.usefixtures("strict_dtypes")

BLOCKS = Layout(shape=(4, 6), split=(2, 2, 3, 2), members=(1, 3))
N_OF_4 = Layout(shape=(8, 3), split=(2, 4, 3), groups=(0, 2))
STACKED_ROWS = Layout(shape=(2, 3, 4), split=(2, 3, 4), groups=(0, 1), counts=(2,))


def test_pooled_scores_are_sums_over_the_members_of_a_unit():
    scores = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    expected = [
        [scores[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum() for j in range(3)] for i in range(2)
    ]
    np.testing.assert_array_equal(BLOCKS.pool(jnp.asarray(scores)), expected)


def test_a_mask_survives_the_way_to_units_and_back():
    units = jnp.array([[True, False, True], [False, False, True]])
    mask = BLOCKS.spread(units)
    np.testing.assert_array_equal(mask, np.kron(units, np.ones((2, 2), bool)))
    np.testing.assert_array_equal(BLOCKS.units_of(mask), units)
    assert int(BLOCKS.count(units)[0]) == int(mask.sum()) == 12


@pytest.mark.parametrize(
    ("layout", "units", "unit_size", "weights_per_count", "group_axes"),
    [
        (BLOCKS, 6, 4, 4, ()),
        (N_OF_4, 4, 1, 6, (0, 2)),
        (STACKED_ROWS, 4, 1, 3, (0, 1)),
        (Layout((2, 4, 6), (2, 2, 2, 6), groups=(0,), members=(2,), counts=(2,)), 12, 2, 2, (0,)),
    ],
)
def test_layouts_know_their_sizes(layout, units, unit_size, weights_per_count, group_axes):
    assert (layout.units, layout.unit_size) == (units, unit_size)
    assert layout.weights_per_count == weights_per_count
    assert layout.group_axes == group_axes


def test_counts_are_per_stacked_slice():
    mask = jnp.arange(24).reshape(2, 3, 4) < 9
    assert STACKED_ROWS.count(mask)[0].tolist() == [9, 0]


def test_a_split_must_hold_all_weights():
    with pytest.raises(ValueError, match=r"cannot split \(4, 6\) into \(2, 2, 5\): 24 != 20"):
        Layout(shape=(4, 6), split=(2, 2, 5))


def test_the_slices_of_a_stacked_leaf_are_groups():
    leaf = Leaf("w", (3, 4, 5), jnp.float32, sparse=True, why="", stacked=1)
    layout = Unstructured().layout(leaf)
    assert (layout.units, layout.unit_size, layout.groups, layout.counts) == (20, 1, (0,), (3,))
