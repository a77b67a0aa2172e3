"""Laws of sparse fine-tuning: exact choices by hand; what is not chosen keeps every bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst

RANDOM = np.random.default_rng(11)
PARAMS = {
    "a": jnp.asarray(RANDOM.normal(size=(6, 4)), jnp.float32).at[0].set(-0.0).at[1].set(0.0),
    "b": jnp.asarray(RANDOM.normal(size=4), jnp.float32),
}
GRADS = [
    jax.tree.map(lambda x: jnp.asarray(RANDOM.normal(size=x.shape), jnp.float32), PARAMS)
    for _ in range(4)
]
MASKS = {"a": jnp.asarray(RANDOM.random((6, 4)) < 0.5)}


def bits(x):
    return np.asarray(x).view(np.uint32)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1, 2, 3, 4, 5], [1.4, 1.9, 3.05, 3.0, 5.2], [1, 0, 0, 1, 0]),
        ([1, 2, 3, 4], [1.5, 1.9, 3, 3.2], [1, 0, 0, 1]),
        ([1, 1, 1, 1], [2, 0, 2, 0], [1, 1, 0, 0]),  # of equal changes the first are taken
    ],
)
def test_the_weights_that_moved_most_are_chosen(before, after, expected):
    one, other = {"w": jnp.array(before, jnp.float32)}, {"w": jnp.array(after, jnp.float32)}
    mask = dst.most_moved(one, other, count=2)["w"]
    assert mask.astype(int).tolist() == expected


def test_all_leaves_compete_except_those_that_are_tuned_whole():
    after = {"a": PARAMS["a"] + 0.1, "b": PARAMS["b"] + 0.2}
    masks = dst.most_moved(PARAMS, after, share=0.25)  # 7 of 28
    assert int(masks["b"].sum()) == 4 and int(masks["a"].sum()) == 3
    masks = dst.most_moved(PARAMS, after, share=0.25, whole="b")
    assert bool(masks["b"].all()) and int(masks["a"].sum()) == 6
    masks = dst.most_moved(PARAMS, after, share=1e-6, select="a")
    assert masks.keys() == {"a"} and int(masks["a"].sum()) == 1
    allowed = PARAMS["a"] != 0
    masks = dst.most_moved(PARAMS, after, share=1.0, where={"a": allowed})
    np.testing.assert_array_equal(masks["a"], allowed)


@pytest.mark.parametrize("inner", ["adamw", "momentum"])
def test_other_weights_keep_every_bit_and_have_no_moments(inner):
    make = {
        "adamw": lambda: optax.adamw(1e-2, weight_decay=0.3),
        "momentum": lambda: optax.sgd(1e-2, momentum=0.9, nesterov=True),
    }[inner]
    tx, params = dst.train_only(make(), MASKS), PARAMS
    state = tx.init(params)
    alone, chosen = make(), PARAMS["a"][MASKS["a"]]  # the same weights, and no others
    state_alone = alone.init(chosen)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, state_alone = alone.update(grads["a"][MASKS["a"]], state_alone, chosen)
        chosen = optax.apply_updates(chosen, updates)
    np.testing.assert_allclose(params["a"][MASKS["a"]], chosen, rtol=1e-6)
    assert (params["a"][MASKS["a"]] != PARAMS["a"][MASKS["a"]]).all()
    np.testing.assert_array_equal(bits(params["b"]), bits(PARAMS["b"]))
    np.testing.assert_array_equal(bits(params["a"][~MASKS["a"]]), bits(PARAMS["a"][~MASKS["a"]]))
    moments = [x for x in jax.tree.leaves(state) if jnp.shape(x) == (6, 4)]
    assert moments and all((np.asarray(x)[~np.asarray(MASKS["a"])] == 0).all() for x in moments)


def test_with_all_weights_it_is_the_optimizer_itself():
    everything = jax.tree.map(lambda x: jnp.ones(x.shape, bool), PARAMS)
    results = []
    for tx in (optax.adam(1e-2), dst.train_only(optax.adam(1e-2), everything)):
        updates, _ = jax.jit(tx.update)(GRADS[0], tx.init(PARAMS), PARAMS)
        results.append(optax.apply_updates(PARAMS, updates))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_bad_input_is_named():
    other = {"a": PARAMS["a"] + 1}
    with pytest.raises(ValueError, match=r"after does not fit.*only one of both has \['b'\]"):
        dst.most_moved(PARAMS, other)
    other["b"] = jnp.ones(3)
    with pytest.raises(ValueError, match=r"b must have shape \(4,\), got \(3,\)"):
        dst.most_moved(PARAMS, other)
    other["b"] = PARAMS["b"].at[0].set(jnp.nan)
    with pytest.raises(ValueError, match="b: expected finite weights"):
        dst.most_moved(PARAMS, other)
    with pytest.raises(ValueError, match="count must be at most 28, .* got 29"):
        dst.most_moved(PARAMS, PARAMS, count=29)
    with pytest.raises(ValueError, match="share must be"):
        dst.most_moved(PARAMS, PARAMS, share=0.0)
    with pytest.raises(ValueError, match="select"):
        dst.most_moved(PARAMS, PARAMS, select="c")
    with pytest.raises(ValueError, match="where: expected bool masks"):
        dst.most_moved(PARAMS, PARAMS, where={"a": jnp.ones((6, 4))})
    wrong = {"c": jnp.ones(2, bool)}, {"a": jnp.ones((4, 6), bool)}, {"a": jnp.ones((6, 4))}
    for masks, message in zip(wrong, (r"\['c'\]", r"\(6, 4\)", "bool masks"), strict=True):
        with pytest.raises(ValueError, match=f"masks.*{message}"):
            dst.train_only(optax.sgd(1.0), masks).init(PARAMS)
