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

    found = [(state, params)]
    for _ in range(3):
        grads = jax.tree.map(lambda p: RANDOM.normal(size=p.shape).astype(np.float32), params)
        params, state = step(grads, state, params, topology=False)
        params, state = step(grads, state, params, topology=True)
        found.append((state, params))
    return found


@pytest.mark.parametrize("path", ["w", "stack"])
def test_what_was_dropped_and_grown_is_what_the_masks_say(run, path):
    (before, _), (after, params) = run[-2:]
    old, new = (np.asarray(dst.masks(s)[path]) for s in (before, after))
    found = dst.explain(after, path, params, before=before, stacked=int(path == "stack"))
    assert found.dropped == (old & ~new).sum() > 0 and found.grown == (new & ~old).sum() > 0
    np.testing.assert_array_equal(found.dropped_at, np.argwhere(old & ~new))
    np.testing.assert_array_equal(found.grown_at, np.argwhere(new & ~old))
    # Without the earlier state, ages say what has grown; what has been dropped is unknown.
    alone = dst.explain(after, path)
    np.testing.assert_array_equal(alone.grown_at, found.grown_at)
    assert alone.dropped_at is None and alone.smallest_kept is None
    assert found.active == new.sum() and found.steps == 3 and found.at == 5


def test_the_threshold_is_the_smallest_weight_that_stayed(run):
    (before, _), (after, params) = run[-2:]
    both = np.asarray(dst.masks(before)["w"] & dst.masks(after)["w"])
    found = dst.explain(after, "w", params)
    assert found.smallest_kept == np.abs(np.asarray(params["w"]))[both].min() > 0


def test_ages_count_topology_steps_since_a_weight_was_grown(run):
    masks = [np.asarray(dst.masks(state)["w"]) for state, _ in run]
    since = np.zeros(masks[-1].shape, int)
    for later in range(1, 4):
        since[masks[later] & ~masks[later - 1]] = later
    years, counts = np.unique(3 - since[masks[-1] & (since > 0)], return_counts=True)
    expected = dict(zip(years.tolist(), counts.tolist(), strict=True))
    expected[63] = int((masks[-1] & (since == 0)).sum())
    found = dst.explain(run[-1][0], "w")
    assert found.ages == expected and sum(found.ages.values()) == found.active


def test_dead_neurons_are_found():
    """Nine steps by hand (``test_methods``) end with this mask: input 2 has no connection left."""
    mask = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    stacked = np.stack([mask, mask[::-1]])
    masks = {"w": mask, "s": stacked, "conv": np.zeros((3, 3, 2, 2), bool)}
    masks["conv"][1, 1, 0, 1] = True
    params = jax.tree.map(lambda m: jnp.ones(m.shape), masks)
    tx = dst.sparsify(optax.sgd(0.1), dst.FromMasks(masks), stacked={"s": 1})
    state = tx.init(params)
    found = dst.explain(state, "w")
    assert found.no_output.tolist() == [[2]] and found.no_input.tolist() == []
    assert found.at is None and "no topology step yet" in str(found)
    found = dst.explain(state, "s", stacked=1)
    assert found.no_output.tolist() == [[0, 2], [1, 0]] and found.no_input.tolist() == []
    found = dst.explain(state, "conv")
    assert found.no_input.tolist() == [[0]] and found.no_output.tolist() == [[1]]
    # A kernel whose axes could mean several things: said, not guessed.
    unknown = dst.explain(state, "s")
    assert unknown.no_input is None and "axes=" in str(unknown)
    assert dst.explain(state, "s", axes="i o o").no_output.tolist() == []


def test_indices_are_capped_and_counts_are_whole(run):
    found = dst.explain(run[-1][0], "w", before=run[-2][0], most=2)
    assert len(found.grown_at) == len(found.dropped_at) == 2 < found.grown
    assert f"and {found.grown - 2} more" in str(found)


def test_the_text_holds_the_figures(run):
    text = str(dst.explain(run[-1][0], "w", run[-1][1], before=run[-2][0]))
    for part in ("w 6x8", "topology step 3, after 5 updates", "dropped at (", "smallest weight"):
        assert part in text
    assert "63 or more, or from the start" in text


def test_a_leaf_without_a_mask_is_named(run):
    with pytest.raises(ValueError, match=r"path must be one of \['stack', 'w'\], got 'b'"):
        dst.explain(run[0][0], "b")
