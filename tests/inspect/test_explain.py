"""Laws of looking at one leaf: what the last step changed, ages, thresholds, dead neurons."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from tests.runs import QUICK

RANDOM = np.random.default_rng(3)
PARAMS = {
    "w": jnp.asarray(RANDOM.normal(size=(6, 8)), jnp.float32),
    "stack": jnp.asarray(RANDOM.normal(size=(2, 4, 5)), jnp.float32),
    "b": jnp.zeros(4),
}
METHOD = dst.RigL(sparsity=0.7, allocation="uniform", drop_fraction=0.3, every=1, stop=100)


@pytest.fixture(scope="module")
def run():
    """States and parameters from before the first topology step of RigL to after the third; before
    each there is a plain step."""
    tx = dst.sparsify(optax.sgd(0.1), METHOD, stacked={"stack": 1})
    state = tx.init(PARAMS)
    params = dst.apply_masks(PARAMS, state)

    @partial(jax.jit, static_argnames="topology", compiler_options=QUICK)
    def step(grads, state, params, topology):
        updates, state = tx.update(grads, state, params, topology=topology)
        return optax.apply_updates(params, updates), state

    history = [(state, params)]
    for _ in range(3):
        grads = jax.tree.map(lambda p: RANDOM.normal(size=p.shape).astype(np.float32), params)
        params, state = step(grads, state, params, topology=False)
        params, state = step(grads, state, params, topology=True)
        history.append((state, params))
    return history


@pytest.mark.parametrize("path", ["w", "stack"])
def test_what_was_dropped_and_grown_is_what_the_masks_say(run, path):
    (before, _), (after, params) = run[-2:]
    old, new = (np.asarray(dst.masks(s)[path]) for s in (before, after))
    leaf = dst.explain(after, path, params, before=before, stacked=int(path == "stack"))
    assert leaf.dropped == (old & ~new).sum() > 0 and leaf.grown == (new & ~old).sum() > 0
    np.testing.assert_array_equal(leaf.dropped_at, np.argwhere(old & ~new))
    np.testing.assert_array_equal(leaf.grown_at, np.argwhere(new & ~old))
    # Without the earlier state, ages show what has grown; what was dropped is unknown.
    alone = dst.explain(after, path)
    np.testing.assert_array_equal(alone.grown_at, leaf.grown_at)
    assert alone.dropped_at is None and alone.smallest_kept is None
    assert leaf.active == new.sum() and leaf.steps == 3 and leaf.at == 5


def test_the_threshold_is_the_smallest_weight_that_stayed(run):
    (before, _), (after, params) = run[-2:]
    both = np.asarray(dst.masks(before)["w"] & dst.masks(after)["w"])
    leaf = dst.explain(after, "w", params)
    assert leaf.smallest_kept == np.abs(np.asarray(params["w"]))[both].min() > 0


def test_ages_count_topology_steps_since_a_weight_was_grown(run):
    masks = [np.asarray(dst.masks(state)["w"]) for state, _ in run]
    since = np.zeros(masks[-1].shape, int)
    for later in range(1, 4):
        since[masks[later] & ~masks[later - 1]] = later
    ages, counts = np.unique(3 - since[masks[-1] & (since > 0)], return_counts=True)
    expected = dict(zip(ages.tolist(), counts.tolist(), strict=True))
    expected[63] = int((masks[-1] & (since == 0)).sum())
    leaf = dst.explain(run[-1][0], "w")
    assert leaf.ages == expected and sum(leaf.ages.values()) == leaf.active


def test_dead_neurons_are_listed():
    """In this mask, input 2 has lost all its connections."""
    mask = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    stacked = np.stack([mask, mask[::-1]])
    masks = {"w": mask, "s": stacked, "conv": np.zeros((3, 3, 2, 2), bool)}
    masks["conv"][1, 1, 0, 1] = True
    params = jax.tree.map(lambda m: jnp.ones(m.shape), masks)
    tx = dst.sparsify(optax.sgd(0.1), dst.FromMasks(masks), stacked={"s": 1})
    state = tx.init(params)
    leaf = dst.explain(state, "w")
    assert leaf.no_output.tolist() == [[2]] and leaf.no_input.tolist() == []
    assert leaf.at is None and "no topology step yet" in str(leaf)
    leaf = dst.explain(state, "s", stacked=1)
    assert leaf.no_output.tolist() == [[0, 2], [1, 0]] and leaf.no_input.tolist() == []
    leaf = dst.explain(state, "conv")
    assert leaf.no_input.tolist() == [[0]] and leaf.no_output.tolist() == [[1]]
    # The axes of this kernel could mean several things: no guess.
    unknown = dst.explain(state, "s")
    assert unknown.no_input is None and "axes=" in str(unknown)
    assert dst.explain(state, "s", axes="i o o").no_output.tolist() == []


def test_indices_are_capped_and_counts_are_whole(run):
    leaf = dst.explain(run[-1][0], "w", before=run[-2][0], most=2)
    assert len(leaf.grown_at) == len(leaf.dropped_at) == 2 < leaf.grown
    assert f"and {leaf.grown - 2} more" in str(leaf)


def test_the_text_holds_the_figures(run):
    text = str(dst.explain(run[-1][0], "w", run[-1][1], before=run[-2][0]))
    for part in ("w 6x8", "topology step 3, after 5 updates", "dropped at (", "smallest weight"):
        assert part in text
    assert "63 or more, or from the start" in text


def test_a_leaf_without_a_mask_is_named(run):
    with pytest.raises(ValueError, match=r"path must be one of \['stack', 'w'\], got 'b'"):
        dst.explain(run[0][0], "b")
