"""Sharded parameters: no gathered weight, constant collectives, the masks of one device."""

from __future__ import annotations

import itertools
import math
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dst

METHODS = {
    "set": dst.SET(sparsity=0.75, every=2, stop=100),
    "rigl": dst.RigL(sparsity=0.75, every=2, stop=100),
    "gmp": dst.GMP(sparsity=0.75, every=2, start=2, stop=100),
}
SPECS = {"columns": P(None, "model"), "both": P("data", "model")}
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
SIZES = [(8, 4), (8, 8), (16, 4), (16, 8), (24, 8), (32, 16), (40, 12), (64, 32)]
# Compilation is what these tests cost: `make test` runs two combinations, `make evidence` all.
SHORT = [("rigl", "both", "explicit"), ("set", "columns", "auto")]
CASES = [
    pytest.param(*case, marks=[] if case in SHORT else pytest.mark.evidence)
    for case in itertools.product(METHODS, SPECS, KINDS)
]


def tree(shapes, seed):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        f"l{i}": jax.random.normal(k, s) for i, (k, s) in enumerate(zip(keys, shapes, strict=True))
    }


def mesh_of(kind):
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(KINDS[kind],) * 2)


def placed(values, mesh, spec):
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec)), values)


def begun(tx, params):
    opt_state = tx.init(params)
    return dst.apply_masks(params, opt_state), opt_state


def topology_step(tx):
    return jax.jit(lambda g, s, p: tx.update(g, s, p, topology=True))


@cache
def on_one_device(method):
    """Mask bytes after a topology step of all sizes on one device."""
    tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
    params, opt_state = begun(tx, tree(SIZES, 0))
    _, opt_state = topology_step(tx)(tree(SIZES, 1), opt_state, params)
    return jax.tree.map(np.asarray, opt_state.masks)


@pytest.mark.parametrize(("method", "spec", "kind"), CASES)
def test_masks_keep_their_sharding_and_equal_those_of_one_device(method, spec, kind):
    mesh, expected = mesh_of(kind), on_one_device(method)
    tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
    with jax.set_mesh(mesh):
        params, opt_state = begun(tx, placed(tree(SIZES, 0), mesh, SPECS[spec]))
        grads = placed(tree(SIZES, 1), mesh, SPECS[spec])
        for masks in (opt_state.masks, jax.jit(tx.init)(params).masks):
            for mask, weight in zip(masks.values(), params.values(), strict=True):
                assert mask.sharding.is_equivalent_to(weight.sharding, 2)
        _, opt_state = topology_step(tx)(grads, opt_state, params)
        for path, mask in opt_state.masks.items():
            assert mask.sharding.is_equivalent_to(params[path].sharding, 2)
            np.testing.assert_array_equal(np.asarray(mask), expected[path], err_msg=path)


@pytest.mark.parametrize("method", ["set", pytest.param("rigl", marks=pytest.mark.evidence)])
def test_masks_do_not_depend_on_the_default_generator(method):
    expected = on_one_device(method)
    mesh = mesh_of("auto")
    with jax.default_prng_impl("unsafe_rbg"), jax.set_mesh(mesh):
        tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
        with jax.default_prng_impl("threefry2x32"):
            weights, gradients = tree(SIZES, 0), tree(SIZES, 1)
        params, opt_state = begun(tx, placed(weights, mesh, SPECS["both"]))
        grads = placed(gradients, mesh, SPECS["both"])
        _, opt_state = topology_step(tx)(grads, opt_state, params)
    for path, mask in opt_state.masks.items():
        np.testing.assert_array_equal(np.asarray(mask), expected[path])


def test_masks_of_a_sharded_vmap_equal_one_run_at_a_time():
    seeds = range(4)
    mesh = mesh_of("auto")
    shapes = SIZES[:2]
    runs, expected = [], []
    for seed in seeds:
        tx = dst.sparsify(optax.adam(1e-2), METHODS["set"], seed=seed)
        params, opt_state = begun(tx, tree(shapes, seed))
        runs.append((tree(shapes, 10 + seed), opt_state, params))
        expected.append(topology_step(tx)(*runs[-1])[1].masks)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *runs)

    def place(x):
        return jax.device_put(x, NamedSharding(mesh, P("model", *[None] * (x.ndim - 1))))

    tx = dst.sparsify(optax.adam(1e-2), METHODS["set"])
    step = jax.jit(jax.vmap(lambda g, s, p: tx.update(g, s, p, topology=True)))
    with jax.set_mesh(mesh):
        _, found = step(*jax.tree.map(place, stacked))
    for seed in seeds:
        for path, mask in found.masks.items():
            np.testing.assert_array_equal(np.asarray(mask[seed]), expected[seed][path])


def executed_collectives(text):
    """all-reduces that a compiled program executes: those of loops as often as they run."""
    bodies = dict(
        re.findall(r"while\(.*body=(%[\w.\-]+).*?known_trip_count.*?\"n\":\"(\d+)\"", text)
    )
    total = 0
    for block in re.split(r"\n(?=\S)", text):
        name = re.match(r"(?:ENTRY )?(%[\w.\-]+)", block)
        times = int(bodies.get(name.group(1), 1)) if name else 1
        total += times * len(re.findall(r" all-reduce(?:-start)?\(", block))
    return total


@pytest.mark.parametrize(
    ("method", "kind", "many"),
    [
        ("rigl", "explicit", 6),
        pytest.param("rigl", "auto", 48, marks=pytest.mark.evidence),
        pytest.param("set", "explicit", 48, marks=pytest.mark.evidence),
        pytest.param("gmp", "auto", 48, marks=pytest.mark.evidence),
    ],
)
def test_collectives_do_not_grow_with_the_number_of_leaves(method, kind, many):
    found = {}
    for leaves in (2, many):
        mesh = mesh_of(kind)
        shapes = [(8, 8)] * leaves
        tx = dst.sparsify(optax.sgd(1e-2, momentum=0.9), METHODS[method])
        with jax.set_mesh(mesh):
            params, opt_state = begun(tx, placed(tree(shapes, 0), mesh, SPECS["both"]))
            grads = placed(tree(shapes, 1), mesh, SPECS["both"])
            text = topology_step(tx).lower(grads, opt_state, params).compile().as_text()
        found[leaves] = executed_collectives(text)
        assert "known_trip_count" in text
    print(f"{method}, {kind} axes: executed all-reduces by number of leaves: {found}")
    assert 0 < found[many] <= found[2]


@pytest.mark.parametrize(("method", "spec", "kind"), CASES)
def test_no_weight_is_gathered(method, spec, kind):
    mesh, size = mesh_of(kind), 64
    tx = dst.sparsify(optax.adam(1e-2), METHODS[method])
    with jax.set_mesh(mesh):
        params, opt_state = begun(tx, placed(tree([(size, size)] * 2, 0), mesh, SPECS[spec]))
        grads = placed(tree([(size, size)] * 2, 1), mesh, SPECS[spec])
        text = topology_step(tx).lower(grads, opt_state, params).compile().as_text()
    moved = re.findall(
        r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)", text
    )
    largest = max((math.prod(int(n) for n in x.split(",") if n) for x in moved), default=0)
    assert largest <= size, moved
    assert " sort(" not in text
