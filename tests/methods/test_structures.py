"""Laws of patterns: exact counts in every group, against plain loops, for every meaning of axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx
from tests.reference import units as loops
from tests.runs import QUICK

STRUCTURES = {
    "nm": dst.NM(2, 4),
    "block": dst.Block(4, 2),
    "balanced-block": dst.BalancedBlock(2, 2),
    "constant-fan-in": dst.ConstantFanIn(),
    "output-channel": dst.OutputChannel(),
    "input-channel": dst.InputChannel(),
}
# name: shape, axes, stacked axes
LEAVES = {
    "matrix": ((8, 12), "i o", 0),
    "window": ((3, 1, 4, 6), "k k i o", 0),
    "two_inputs": ((2, 4, 6), "i i o", 0),
    "two_outputs": ((8, 3, 4), "i o o", 0),
    "stacked": ((2, 8, 6), "i o", 1),
}
OPTIONS = {
    "axes": {name: axes for name, (_, axes, _) in LEAVES.items()},
    "stacked": {"stacked": 1},
}
RANDOM = np.random.default_rng(5)
PARAMS = {n: RANDOM.normal(size=s).astype(np.float32) for n, (s, _, _) in LEAVES.items()}
GRADS = {n: RANDOM.normal(size=s).astype(np.float32) for n, (s, _, _) in LEAVES.items()}


def rest_is_evidence(*cheap):
    """All structures: compilation is what these tests cost."""
    return [pytest.param(s, marks=[] if s in cheap else pytest.mark.evidence) for s in STRUCTURES]


def groups_of(name, structure):
    return loops.units(structure, *LEAVES[name])


def half(groups):
    """Units kept per group at half the sparsity: zeros are rounded down."""
    return {g: len(u) - len(u) // 2 for g, u in groups.items()}


def run(method, steps, initial=None):
    """The masks at the start and after every step, all of them topology steps."""
    tx = dst.sparsify(optax.sgd(0.1, momentum=0.9), method, initial=initial, **OPTIONS)

    def begin(params):
        state = tx.init(params)
        return dst.apply_masks(params, state), state

    def step(state, params):
        updates, state = tx.update(GRADS, state, params, topology=True)
        return optax.apply_updates(params, updates), state

    params, state = jax.jit(begin, compiler_options=QUICK)(PARAMS)
    history, program = [dst.masks(state)], jax.jit(step, compiler_options=QUICK)
    for _ in range(steps):
        params, state = program(state, params)
        history.append(dst.masks(state))
    dst.check_invariants(state, params)
    return jax.tree.map(np.asarray, history), params


@pytest.mark.parametrize("name", rest_is_evidence("nm", "block", "output-channel"))
def test_rigl_with_a_structure_equals_plain_loops(name):
    structure = STRUCTURES[name]
    method = dst.RigL(0.5, "uniform", 0.5, every=1, stop=100, decay="constant", structure=structure)
    (start, after, *_), _ = run(method, 1, initial="magnitude")
    for leaf in LEAVES:
        groups = groups_of(leaf, structure)
        counts = half(groups)
        weight, grad = np.abs(PARAMS[leaf]), np.abs(GRADS[leaf])
        first = loops.best(weight, groups, counts)
        np.testing.assert_array_equal(start[leaf], first)
        stay = {g: n - n // 2 for g, n in counts.items()}
        kept = loops.best(np.where(first, weight, 0), groups, stay, where=first)
        grown = loops.best(grad, groups, {g: n // 2 for g, n in counts.items()}, where=~kept)
        np.testing.assert_array_equal(after[leaf], kept | grown)


SETTINGS = {"allocation": "uniform", "every": 1, "stop": 100}
METHODS = {
    "set": lambda s: dst.SET(0.5, drop_fraction=0.5, structure=s, decay="constant", **SETTINGS),
    "gmp": lambda s: dst.GMP(0.5, allocation="uniform", every=1, start=0, stop=2, structure=s),
}


@pytest.mark.parametrize("initial", [None, "magnitude"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_counts_are_exact_in_every_group_from_the_start(name, initial):
    structure = STRUCTURES[name]
    (start,), _ = run(dst.Static(0.5, "uniform", structure=structure), 0, initial)
    for leaf, mask in start.items():
        groups = groups_of(leaf, structure)
        assert loops.counts(mask, groups) == half(groups)


CHEAP = [("set", "constant-fan-in"), ("gmp", "block"), ("gmp", "nm")]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(m, s, marks=[] if (m, s) in CHEAP else pytest.mark.evidence)
        for m in METHODS
        for s in STRUCTURES
    ],
)
def test_counts_are_exact_in_every_group_after_topology_steps(method, name):
    structure = STRUCTURES[name]
    history, _ = run(METHODS[method](structure), 3)
    for leaf in LEAVES:
        groups = groups_of(leaf, structure)
        for after in history[1:]:
            assert len(set(loops.counts(after[leaf], groups).values())) == 1
        assert loops.counts(history[-1][leaf], groups) == half(groups)
    # SET may grow what it dropped: of a few channels, in one leaf at one step, it does.
    moved = [
        (a[k] != b[k]).any() for a, b in zip(history, history[1:], strict=False) for k in LEAVES
    ]
    assert method != "set" or np.mean(moved) > 0.5


def test_ties_in_an_n_of_m_group_keep_the_lower_index():
    """JaxPruner (jaxpruner/mask_calculator.py) keeps the higher one."""
    row = jnp.array([0.1, -0.9, 0.4, 0.4, 0, 0.2, -0.3, 0.05])[:, None]
    state = dst.sparsify(optax.sgd(0.1), dst.ASP()).init({"w": row})
    assert dst.masks(state)["w"][:, 0].astype(int).tolist() == [0, 1, 1, 0, 0, 1, 1, 0]


def test_blocks_are_ranked_by_their_sum():
    """By the average it keeps (0, 0), first of a tie, and (1, 0).

    Sums are four times the averages here and rank alike. By the largest member the choice would
    be (0, 0) and (1, 1): that pooling is not built.
    """
    w = jnp.array([[0.9, 0.1, 0.2, 0.2], [0, 0, 0.3, 0.3], [0.4, 0.4, 0.8, 0], [0.4, 0.4, 0, 0]])
    method = dst.Static(0.5, "uniform", structure=dst.Block(2, 2))
    state = dst.sparsify(optax.sgd(0.1), method, initial="magnitude").init({"w": w})
    chosen = np.asarray(dst.masks(state)["w"])
    np.testing.assert_array_equal(chosen, np.kron([[1, 0], [1, 0]], np.ones((2, 2), bool)))


class Zoo(nnx.Module):
    """One of each module whose axes are known."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(8, 4, rngs=rngs)
        self.conv = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.split = nnx.LinearGeneral(8, (2, 4), rngs=rngs)
        self.merge = nnx.LinearGeneral((2, 4), 6, axis=(-2, -1), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.einsum = nnx.Einsum("bi,iho->bho", (8, 2, 4), rngs=rngs)


AXES = {
    "linear/kernel": "i o",
    "conv/kernel": "k k i o",
    "split/kernel": "i o o",
    "merge/kernel": "i i o",
    "attention/query/kernel": "i o o",
    "attention/key/kernel": "i o o",
    "attention/value/kernel": "i o o",
    "attention/out/kernel": "i i o",
    "einsum/kernel": "i o o",
}


@pytest.mark.evidence
@pytest.mark.parametrize("name", STRUCTURES)
def test_modules_say_which_axes_a_structure_reads(name):
    model = Zoo()
    method = dst.Static(0.5, "uniform", structure=STRUCTURES[name])
    dst.nnx.Optimizer(model, optax.sgd(0.1), method)
    carried = dst.nnx.masks(model)
    assert carried.keys() == AXES.keys()
    for path, mask in carried.items():
        groups = loops.units(STRUCTURES[name], mask.shape, AXES[path])
        assert loops.counts(mask, groups) == half(groups), path


@pytest.mark.parametrize(("n", "m"), [(2, 3), (1, 3), (1, 6), (3, 7), (2, 4)])
@pytest.mark.parametrize("method", ["asp", "sr-ste", "prune"])
def test_every_pattern_keeps_n_of_m(method, n, m):
    """Also where the sparsity is no decimal number: 2:3 once kept three of three."""
    params = {"w": jax.random.normal(jax.random.key(0), (4 * m, 3))}
    if method == "prune":
        _, found = dst.prune(params, 1 - n / m, structure=dst.NM(n, m))
    else:
        tx = dst.sparsify(optax.sgd(0.1), (dst.ASP if method == "asp" else dst.SRSTE)(n=n, m=m))
        state = tx.init(params)
        _, state = tx.update(params, state, params, topology=method == "asp")
        found = dst.masks(state)
    groups = np.asarray(found["w"]).reshape(4, m, 3).sum(axis=1)
    assert (groups == n).all()
