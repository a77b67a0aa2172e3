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
from tests.runs import QUICK, compilations

METHODS = {
    "set": dst.SET(sparsity=0.75, every=2, stop=100),
    "rigl": dst.RigL(sparsity=0.75, every=2, stop=100),
    "gmp": dst.GMP(sparsity=0.75, every=2, start=2, stop=100),
}
SPECS = {"columns": P(None, "model"), "both": P("data", "model")}
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
SIZES = [(8, 4), (8, 8), (16, 4), (16, 8), (24, 8), (32, 16), (40, 12), (64, 32)]
# Compilation is what these tests cost: `make test` runs one combination, `make evidence` all.
SHORT = [("rigl", "both", "explicit")]
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


def started(tx, params):
    def begin(params):
        opt_state = tx.init(params)
        return dst.apply_masks(params, opt_state), opt_state

    return jax.jit(begin, compiler_options=QUICK)(params)


def topology_step(tx):
    return jax.jit(lambda g, s, p: tx.update(g, s, p, topology=True), compiler_options=QUICK)


@cache
def on_one_device(method):
    """Mask bytes after a topology step of all sizes on one device."""
    tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
    params, opt_state = started(tx, tree(SIZES, 0))
    _, opt_state = topology_step(tx)(tree(SIZES, 1), opt_state, params)
    return jax.tree.map(np.asarray, opt_state.masks)


@pytest.mark.parametrize(("method", "spec", "kind"), CASES)
def test_masks_keep_their_sharding_and_equal_those_of_one_device(method, spec, kind):
    mesh, expected = mesh_of(kind), on_one_device(method)
    tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
    with jax.set_mesh(mesh):
        params, opt_state = started(tx, placed(tree(SIZES, 0), mesh, SPECS[spec]))
        grads = placed(tree(SIZES, 1), mesh, SPECS[spec])
        program = topology_step(tx).lower(grads, opt_state, params).compile()
        _, after = program(grads, opt_state, params)
        slots = [after.inner_state[0].mu, after.inner_state[0].nu]
        for path, weight in params.items():
            for nodes in (opt_state.masks, after.masks, *slots):
                assert nodes[path].sharding.is_equivalent_to(weight.sharding, 2)
            np.testing.assert_array_equal(np.asarray(after.masks[path]), expected[path], path)
    assert_only_counts_travel(program.as_text())


STRUCTURES = {
    "nm": dst.NM(2, 4),
    "block": dst.Block(2, 2),
    "balanced-block": dst.BalancedBlock(2, 2),
    "constant-fan-in": dst.ConstantFanIn(),
    "output-channel": dst.OutputChannel(),
    "input-channel": dst.InputChannel(),
}
LATENT = {
    "sr-ste": dst.SRSTE(2, 4),
    "t-sr-ste": dst.TSRSTE(1, 2, every=1),
    "s-ste": dst.SSTE(2, 4),
    "mask-decay": dst.MaskDecay(2, 4, start=0, stop=1),
    "structure-decay": dst.StructureDecay(1, 4, start=0, stop=1),
    "top-kast": dst.TopKAST(0.75, 0.5),
    "edge-popup": dst.EdgePopup(0.75, signed_constant=False),
    "top-k-weights": dst.TopKWeights(0.75, anneal=0),
    "str": dst.STR(0.75, start=-1.0),
}
for name, structure in STRUCTURES.items():
    METHODS[name] = dst.RigL(
        0.5, "uniform", every=2, stop=100, drop_fraction=0.5, structure=structure, rounding="ceil"
    )
METHODS |= LATENT
# Units and groups lie on one device each, or (the last two) on several.
WHOLE, DIVIDED = ((40, 24), (64, 16)), ((8, 4), (12, 8))
SHORT_MORE = [
    ("block", "both", "auto"),
    ("constant-fan-in", "both", "explicit"),
    ("sr-ste", "columns", "auto"),
    ("t-sr-ste", "both", "explicit"),
    ("str", "both", "explicit"),
]
MORE_CASES = [
    pytest.param(*case, marks=[] if case in SHORT_MORE else pytest.mark.evidence)
    for case in itertools.product([*STRUCTURES, *LATENT], SPECS, KINDS)
]


@cache
def stages_on_one_device(method, sizes):
    """Mask bytes at the start and after a topology step on one device."""
    tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
    params, opt_state = started(tx, tree(sizes, 0))
    _, after = topology_step(tx)(tree(sizes, 1), opt_state, params)
    return [jax.tree.map(np.asarray, s.masks) for s in (opt_state, after)]


def program_on_a_mesh(method, spec, kind, sizes):
    """Asserts the laws of masks on a mesh; the text of the compiled topology step."""
    mesh, expected = mesh_of(kind), stages_on_one_device(method, sizes)
    tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
    with jax.set_mesh(mesh):
        params, opt_state = started(tx, placed(tree(sizes, 0), mesh, SPECS[spec]))
        grads = placed(tree(sizes, 1), mesh, SPECS[spec])
        program = topology_step(tx).lower(grads, opt_state, params).compile()
        _, after = program(grads, opt_state, params)
    placement = params["l0"].sharding
    shapes = [x.shape for x in params.values()]  # a threshold per layer is everywhere
    for memory in jax.tree.leaves((after.variables, after.inner_state[0].mu)):
        assert memory.shape not in shapes or memory.sharding.is_equivalent_to(placement, 2)
    for path in params:
        for state, masks in zip((opt_state, after), expected, strict=True):
            assert state.masks[path].sharding.is_equivalent_to(placement, 2)
            np.testing.assert_array_equal(np.asarray(state.masks[path]), masks[path])
    return program.as_text()


@pytest.mark.parametrize(("method", "spec", "kind"), MORE_CASES)
def test_structures_and_latent_weights_on_a_mesh_move_no_weight(method, spec, kind):
    text = program_on_a_mesh(method, spec, kind, WHOLE)
    assert_no_weight_travels(text, min(n * m for n, m in WHOLE))


@pytest.mark.evidence
@pytest.mark.parametrize(("method", "spec", "kind"), MORE_CASES)
def test_units_and_groups_may_lie_on_several_devices(method, spec, kind):
    program_on_a_mesh(method, spec, kind, DIVIDED)


def assert_no_weight_travels(text, weights):
    """What devices exchange are counts, and scores of units that are larger than a weight."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    assert not re.findall(r" sort\(", text)
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        for lengths in re.findall(r"\w+\[([\d,]*)\]", shapes):
            size = math.prod(int(n) for n in lengths.split(",") if n)
            assert size <= weights // 8, (kind, shapes)


def assert_only_counts_travel(text):
    """All-reduces of single integers; no weight is gathered, moved or sorted."""
    moved = r" (?:all-gather|all-to-all|collective-permute|reduce-scatter|sort)(?:-start)?\("
    assert not re.findall(moved, text)
    for shapes in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
        for lengths in re.findall(r"\w+\[([\d,]*)\]", shapes):
            assert math.prod(int(n) for n in lengths.split(",") if n) == 1, shapes


@pytest.mark.evidence
@pytest.mark.parametrize("method", ["set", "rigl"])
def test_masks_do_not_depend_on_the_default_generator(method):
    expected = on_one_device(method)
    mesh = mesh_of("auto")
    with jax.default_prng_impl("unsafe_rbg"), jax.set_mesh(mesh):
        tx = dst.sparsify(optax.adam(1e-2), METHODS[method], seed=3)
        with jax.default_prng_impl("threefry2x32"):
            weights, gradients = tree(SIZES, 0), tree(SIZES, 1)
        params, opt_state = started(tx, placed(weights, mesh, SPECS["both"]))
        grads = placed(gradients, mesh, SPECS["both"])
        _, opt_state = topology_step(tx)(grads, opt_state, params)
    for path, mask in opt_state.masks.items():
        np.testing.assert_array_equal(np.asarray(mask), expected[path])


@pytest.mark.evidence
def test_masks_of_a_sharded_vmap_equal_one_run_at_a_time():
    seeds = range(4)
    mesh = mesh_of("auto")
    shapes = SIZES[:2]
    runs, expected = [], []
    for seed in seeds:
        tx = dst.sparsify(optax.adam(1e-2), METHODS["set"], seed=seed)
        params, opt_state = started(tx, tree(shapes, seed))
        runs.append((tree(shapes, 10 + seed), opt_state, params))
        expected.append(topology_step(tx)(*runs[-1])[1].masks)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *runs)

    def place(x):
        return jax.device_put(x, NamedSharding(mesh, P("model", *[None] * (x.ndim - 1))))

    tx = dst.sparsify(optax.adam(1e-2), METHODS["set"])
    step = jax.jit(
        jax.vmap(lambda g, s, p: tx.update(g, s, p, topology=True)), compiler_options=QUICK
    )
    with jax.set_mesh(mesh):
        _, state = step(*jax.tree.map(place, stacked))
    for seed in seeds:
        for path, mask in state.masks.items():
            np.testing.assert_array_equal(np.asarray(mask[seed]), expected[seed][path])


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
    """A pass of the search for thresholds is one round of a loop for all leaves together."""
    written = {}
    for leaves in (2, many):
        mesh = mesh_of(kind)
        shapes = [(8, 8)] * leaves
        tx = dst.sparsify(optax.sgd(1e-2, momentum=0.9), METHODS[method])
        with jax.set_mesh(mesh):
            params, opt_state = started(tx, placed(tree(shapes, 0), mesh, SPECS["both"]))
            grads = placed(tree(shapes, 1), mesh, SPECS["both"])
            text = topology_step(tx).lower(grads, opt_state, params).compile().as_text()
        written[leaves] = len(re.findall(r" all-reduce(?:-start)?\(", text))
        assert " while(" in text
    print(f"{method}, {kind} axes: all-reduces in the program by number of leaves: {written}")
    assert 0 < written[many] <= written[2]


@pytest.mark.parametrize("kind", [pytest.param("auto", marks=pytest.mark.evidence), "explicit"])
def test_a_run_on_a_mesh_compiles_two_programs(kind):
    """In the first the count decides; nothing is compiled when the state comes back."""
    mesh = mesh_of(kind)
    tx = dst.sparsify(optax.adam(1e-2), METHODS["rigl"])

    def step(topology):
        def run(grads, opt_state, params):
            updates, opt_state = tx.update(grads, opt_state, params, topology=topology)
            return optax.apply_updates(params, updates), opt_state

        return jax.jit(run, compiler_options=QUICK)

    by_count, hot = step(None), step(False)
    with jax.set_mesh(mesh):
        params = placed(tree(SIZES[:2], 0), mesh, SPECS["both"])
        grads = placed(tree(SIZES[:2], 1), mesh, SPECS["both"])
        opt_state = tx.init(params)
        params = dst.apply_masks(params, opt_state)
        for path, weight in params.items():
            assert opt_state.masks[path].sharding.is_equivalent_to(weight.sharding, 2)
        with compilations() as compiled:
            for program in (by_count, by_count, by_count, hot):
                params, opt_state = program(grads, opt_state, params)
        assert compiled.count == 2
        assert int(opt_state.topology.done) == 1
        dst.check_invariants(opt_state, params)
        assert int(jax.jit(dst.metrics)(opt_state, params)["topology_steps"]) == 1
