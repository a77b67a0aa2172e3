"""Laws of groups: what is found can be removed, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.core import tree
from dst.oneshot.structured import Removal
from tests.oneshot.structured.programs import (
    CHAIN,
    HEADS,
    KEYS,
    PROGRAMS,
    SIZE,
    VECTORS,
    chain,
    results,
)


def at_random(groups, seed=0):
    """A third of the units of every group, chosen by lot."""
    random, kept = np.random.default_rng(seed), {}
    for group in groups:
        kept[group.name] = np.ones(group.units, bool)
        kept[group.name][random.permutation(group.units)[: group.units // 3]] = False
    return Removal(groups, kept)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_smaller_network_computes_what_the_masked_one_does(name):
    forward, params, batch, units = PROGRAMS[name]
    groups = dst.channel_groups(forward, params, batch)
    assert {x.name: x.units for x in groups} == units
    removal = at_random(groups)
    smaller, masked = removal.smaller(params), removal.masked(params)
    one, other, dense = results(forward, (smaller, batch), (masked, batch), (params, batch))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(one - dense).max() > 0.01, "nothing was removed that matters"
    before, after = (tree.flatten(x)[1] for x in (params, smaller))
    zeros = sum(np.size(x) - np.size(y) for x, y in zip(before, after, strict=True))
    assert zeros > 0


def test_a_head_is_a_key_with_all_of_its_queries():
    forward, params, batch, _ = PROGRAMS["a list of blocks"]
    group = dst.channel_groups(forward, params, batch)["0/k"]
    members = {x.path: x for x in group.members}
    assert members.keys() == {"0/q", "0/k", "0/v", "0/o"}
    assert [x.path for x in group.members if x.consumes] == ["0/o"]
    channels = np.arange(HEADS * SIZE).reshape(KEYS, -1)
    np.testing.assert_array_equal(members["0/q"].positions, channels)
    np.testing.assert_array_equal(members["0/o"].positions, channels)
    np.testing.assert_array_equal(
        members["0/v"].positions, np.arange(KEYS * SIZE).reshape(KEYS, -1)
    )


def test_shapes_suffice_to_find_groups():
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), CHAIN)
    batch = jax.ShapeDtypeStruct(VECTORS.shape, VECTORS.dtype)
    assert str(dst.channel_groups(chain, shapes, batch)) == (
        "group          read by        others       units\n"
        "layer0/kernel  layer1/kernel  layer0/bias     10\n"
        "layer1/kernel  out/kernel     layer1/bias      7"
    )


A, B, C = np.ones((5, 8), np.float32), np.ones((8, 3), np.float32), np.ones(8, np.float32)
KEPT = {
    "a reduction over units": lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"],
    "a result": lambda p, x: (x @ p["a"], x @ p["a"] @ p["b"]),
    "a constant array": lambda p, x: ((x @ p["a"]) * jnp.arange(8.0)[None]) @ p["b"],
    "a slice": lambda p, x: jnp.tanh((x @ p["a"])[:, ::-1][:, :8] @ p["b"]) + (x @ p["a"])[:, :3],
    "a sum over a unit that is not zero": lambda p, x: (
        jnp.cosh(x @ p["a"]) @ jnp.cosh(x @ p["a"]).T @ (x @ p["a"]) @ p["b"]
    ),
    "an operation that is not known": lambda p, x: jnp.sort(x @ p["a"]) @ p["b"],
    "no product that reads them": lambda p, x: (x @ p["a"] * p["b"].sum()).sum(),
}


@pytest.mark.parametrize("name", KEPT)
def test_units_that_meet_another_operation_are_kept(name):
    groups = dst.channel_groups(KEPT[name], {"a": A, "b": B}, VECTORS)
    assert not len(groups), str(groups)


def test_a_scale_that_data_reads_with_a_kernel_is_part_of_the_unit():
    def forward(p, x):
        return jnp.cos(x @ p["a"]) * p["c"][None] @ p["b"]

    groups = dst.channel_groups(forward, {"a": A, "b": B, "c": C}, VECTORS)
    assert [x.path for x in groups["a"].members] == ["a", "b", "c"]
