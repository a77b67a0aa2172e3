"""Wrong calls stop at once, and say what was expected, what was found and what to do."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx
from dst import Allocation

PARAMS = {
    "hidden": {"kernel": jnp.ones((8, 16)), "bias": jnp.zeros(16)},
    "heads": {"kernel": jnp.ones((16, 3, 4))},
}
MASK = np.arange(128).reshape(8, 16) % 4 == 0
AXES = {"heads/kernel": "i o o"}


def begin(method, params=None, **options):
    """What a user writes: wrap, then ``init``."""
    options = {"axes": AXES, **options} if params is None else options
    # Unwrapped: a wrong argument has to reach the library's own message, not the tests' type check.
    tx = inspect.unwrap(dst.sparsify)(optax.sgd(0.1), method, **options)
    params = PARAMS if params is None else params
    return tx, tx.init(params)


def update(params, **changes):
    """One step with a state in which something was changed."""
    tx, state = begin(dst.Static(0.5))
    return tx.update(PARAMS, state._replace(**changes), params)


def resolved(method):
    return begin(method, {"w": jnp.ones((4, 4))})


# name: (the call, parts of its message in this order)
CALLS = {
    # method
    "a name": (lambda: begin("rigl"), ["method", "dst.RigL(", "'rigl'"]),
    "a class": (lambda: begin(dst.RigL), ["method", "dst.RigL(", "RigL"]),
    # sparsity
    "sparsity in percent": (lambda: dst.RigL(90), ["sparsity", "[0, 1)", "90", "mean 0.9"]),
    "sparsity one": (lambda: dst.Static(1.0), ["sparsity", "[0, 1)", "1.0", "empty layer"]),
    "negative sparsity": (lambda: dst.SET(-0.1, every=10), ["sparsity", "[0, 1)", "-0.1"]),
    "sparsity NaN": (lambda: dst.GMP(math.nan), ["sparsity", "[0, 1)", "nan"]),
    "sparsity True": (lambda: dst.RigL(True), ["sparsity", "[0, 1)", "True"]),
    "sparsity as text": (lambda: dst.RigL("0.9"), ["sparsity", "[0, 1)", "'0.9'"]),
    "initial sparsity above the final one": (
        lambda: dst.GMP(0.5, initial_sparsity=0.6),
        ["initial_sparsity 0.6", "0.5", "Lower it"],
    ),
    "a layer that would lose all its weights": (
        lambda: resolved(dst.Static(0.9, allocation=lambda layers, s: Allocation({"w": 1}))),
        ["w of shape (4, 4)", "lose all its weights", "Lower the sparsity", "overrides="],
    ),
    # names
    "unknown allocation": (
        lambda: dst.RigL(0.9, allocation="erkk"),
        ["allocation", "'erkk'", "mean 'erk'"],
    ),
    "unknown cold start": (
        lambda: dst.RigL(0.9, cold_start="local_cuont"),
        ["cold_start", "local_cuont", "mean 'local_count'"],
    ),
    "unknown decay": (lambda: dst.RigL(0.9, decay="cosin"), ["decay", "cosin", "mean 'cosine'"]),
    "unknown rounding": (lambda: dst.RigL(0.9, rounding="up"), ["rounding", "floor", "'up'"]),
    "unknown regrow": (
        lambda: dst.SET(0.9, every=1, regrow="forbidden"),
        ["regrow", "forbidden", "mean 'forbid'"],
    ),
    "unknown initial": (
        lambda: begin(dst.Static(0.5), initial="magnitud"),
        ["initial", "magnitud", "mean 'magnitude'"],
    ),
    "unknown override": (
        lambda: begin(dst.Static(0.5), overrides={"hidden/*": {"sparsty": 0.5}}),
        ["overrides of hidden", "sparsty", "sparsity"],
    ),
    # numbers
    "drop fraction above one": (
        lambda: dst.RigL(0.9, drop_fraction=2),
        ["drop_fraction", "[0, 1]", "2"],
    ),
    "warm-up of no steps": (lambda: dst.RigL(0.9, cold_start=0), ["cold_start", ">= 1", "0"]),
    "sparsity of an override": (
        lambda: begin(dst.Static(0.5), overrides={"hidden/kernel": {"sparsity": 1.5}}),
        ["hidden/kernel", "sparsity", "1.5"],
    ),
    # when
    "never": (lambda: dst.RigL(0.9, every=0), ["every", ">= 1", "0"]),
    "stop before start": (
        lambda: dst.RigL(0.9, start=100, stop=50),
        ["never fires", "stop=50", "start=100", "raise `stop`"],
    ),
    "stop before the first interval": (
        lambda: resolved(dst.RigL(0.9, every=100, stop=50)),
        ["never fires", "100", "50", "Lower"],
    ),
    "a duration that is none": (
        lambda: dst.RigL(0.9, stop="75 steps"),
        ["stop", "percentage as '75%'", "75 steps"],
    ),
    "a percentage without the length of training": (
        lambda: resolved(dst.RigL(0.9)),
        ["stop='75%'", "pass steps= to sparsify", "RigL", "75 % of training"],
    ),
    "SET without its epoch": (
        lambda: resolved(dst.SET(0.9)),
        ["every is missing", "end of every epoch", "every="],
    ),
    "a cosine without end": (
        lambda: dst.RigL(0.9, stop=None),
        ["decay='cosine'", "give `stop`", "decay='constant'"],
    ),
    # which leaves
    "a pattern that matches nothing": (
        lambda: begin(dst.Static(0.5), select="hiden/*"),
        ["select", "'hiden/*'", "mean 'hidden/bias'", "heads/kernel", "hidden/kernel"],
    ),
    "an override that matches nothing": (
        lambda: begin(dst.Static(0.5), overrides={"layers/**": {"sparsity": 0.5}}),
        ["overrides", "'layers/**'", "hidden/kernel"],
    ),
    "nothing to make sparse": (
        lambda: begin(dst.Static(0.5), {"norm": {"scale": jnp.ones(4)}}),
        ["no parameter is left", "select=", "norm/scale (4,)"],
    ),
    "an ambiguous kernel": (
        lambda: begin(dst.Static(0.5), axes={}),
        ["heads/kernel", "(16, 3, 4)", "several ways", "axes={'heads/kernel': 'i o o'}"],
    ),
    "wrong axes": (
        lambda: begin(dst.Static(0.5), axes={"heads/kernel": "in out out"}),
        ["axes of heads/kernel", "3 letters", "in out out"],
    ),
    "more stacked axes than there are": (
        lambda: begin(dst.Static(0.5), stacked={"hidden/kernel": 2}),
        ["hidden/kernel", "(8, 16)", "no axis left after 2"],
    ),
    # masks
    "no masks": (lambda: begin(dst.FromMasks()), ["FromMasks has no masks", "dst.load_masks"]),
    "a model without masks": (
        lambda: dst.nnx.Optimizer(
            nnx.Linear(4, 4, rngs=nnx.Rngs(0)), optax.sgd(0.1), dst.FromMasks()
        ),
        ["carries no masks", "FromMasks(masks=...)"],
    ),
    "masks of another shape": (
        lambda: begin(dst.FromMasks({"hidden/kernel": MASK.T})),
        ["masks", "'hidden/kernel'", "(16, 8)", "(8, 16)"],
    ),
    "masks that are not bool": (
        lambda: begin(dst.FromMasks({"hidden/kernel": MASK.astype(np.float32)})),
        ["masks", "'hidden/kernel'", "bool", "float32"],
    ),
    "masks of another parameter": (
        lambda: begin(dst.FromMasks({"hiden/kernel": MASK})),
        ["masks", "'hiden/kernel'", "no parameter", "hidden/kernel"],
    ),
    "masks that leave nothing": (
        lambda: begin(dst.FromMasks({"hidden/kernel": MASK & False})),
        ["hidden/kernel", "lose all its weights"],
    ),
    "masks to save that are not bool": (
        lambda: dst.save_masks("unwritten.safetensors", {"w": np.ones(4)}),
        ["mask 'w'", "bool", "float64"],
    ),
    # calls in the loop
    "update without parameters": (
        lambda: update(None),
        ["needs the parameters", "tx.update(grads, opt_state, params)"],
    ),
    "the state of other parameters": (
        lambda: update(PARAMS, masks={"w": jnp.ones((4, 4), jnp.uint8)}),
        ["does not fit the parameters", "tx.init(params)"],
    ),
    "a state with masks of another shape": (
        lambda: update(
            PARAMS,
            masks={
                "hidden": {"kernel": jnp.ones((4, 4), jnp.uint8), "bias": optax.MaskedNode()},
                "heads": {"kernel": jnp.ones((16, 3, 4), jnp.uint8)},
            },
        ),
        ["masks do not fit", "hidden/kernel", "(8, 16)", "(4, 4)"],
    ),
    "an optimizer that is not wrapped": (
        lambda: dst.masks(optax.adam(0.1).init(PARAMS)),
        ["no sparse state", "dst.sparsify"],
    ),
    "apply_masks to other parameters": (
        lambda: dst.apply_masks({"w": jnp.ones(4)}, begin(dst.Static(0.5))[1]),
        ["masks do not fit", "hidden/kernel", "w"],
    ),
    "apply_masks to parameters of another shape": (
        lambda: dst.apply_masks(jax.tree.map(lambda x: x[:2], PARAMS), begin(dst.Static(0.5))[1]),
        ["masks do not fit", "(2, 3, 4)", "(16, 3, 4)"],
    ),
    "masks of different models": (
        lambda: dst.compare({"a": MASK}, {"b": MASK}),
        ["same leaves", "['a', 'b']"],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_says_what_it_got_and_what_to_do(name):
    assert_says(*CALLS[name])


def assert_says(call, parts):
    """The call raises, and the parts are in its message, in their order."""
    with pytest.raises(ValueError) as caught:
        call()
    message, place = str(caught.value), 0
    for part in parts:
        at = message.find(part, place)
        assert at >= 0, f"{part!r} is missing, or too early, in: {message}"
        place = at


def test_a_wrong_call_leaves_no_file_behind(tmp_path):
    target = tmp_path / "masks.safetensors"
    with pytest.raises(ValueError, match="bool"):
        dst.save_masks(target, {"w": MASK, "v": np.ones(4)})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_foreign_mask_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no mask file at .*nothing"):
        dst.load_masks(tmp_path / "nothing")
    (tmp_path / "foreign").write_text("hello")
    with pytest.raises(ValueError, match="foreign is no safetensors file"):
        dst.load_masks(tmp_path / "foreign")


def test_a_frozen_method_checks_every_changed_field_again():
    with pytest.raises(ValueError, match="sparsity"):
        replace(dst.RigL(0.9), sparsity=90)
