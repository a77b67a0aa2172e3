"""Laws of second-order pruning: tables by hand; NumPy's inverses, recursions and minima."""

from __future__ import annotations

import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.oneshot import Matrix
from dst.oneshot.curvature import from_blocks, in_blocks
from dst.oneshot.solve import precise
from dst.oneshot.surgery import Blocks, greedy, grouped, joint, single, summed

RANDOM = np.random.default_rng(11)
SHAPES = {"a": (8, 6), "b": (6, 4)}
PARAMS = {k: RANDOM.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
BATCHES = [
    {k: RANDOM.normal(size=s).astype(np.float32) for k, s in SHAPES.items()} for _ in range(21)
]
WEIGHT, H = np.array([1.0, 0.5]), np.array([[2.0, 1.0], [1.0, 3.0]])
METHODS = [
    dst.OBD(),
    dst.WoodFisher(block=10, dampening=1e-2),
    dst.OBERT(block=10, dampening=1e-2),
    dst.CAP(block=10, dampening=1e-2),
]


def loss(params, batch):
    """Its gradients are the batches themselves."""
    return sum((params[k] * batch[k]).sum() for k in SHAPES)


def flat(x):
    """In the order of blocks: the inputs of an output one after the other."""
    return np.asarray(x, np.float64).T.reshape(-1)


def fisher(path, batches=BATCHES):
    g = np.stack([flat(b[path]) for b in batches])
    return g.T @ g / len(g)


def diagonal_blocks(matrix, size):
    """The matrix, with zeros outside of blocks along its diagonal."""
    at = np.arange(len(matrix)) // size
    return np.where(at[:, None] == at[None], matrix, 0)


def at(weight, curvature, alive=None):
    weight = np.asarray(weight, float)
    alive = np.ones(len(weight), bool) if alive is None else alive
    return Blocks(jnp.asarray(weight[None]), jnp.asarray(curvature[None]), jnp.asarray(alive[None]))


def constrained(w, h, keep):
    """The minimum of ``d^T h d`` with ``w + d = 0`` where not kept, from its KKT equations."""
    lost = np.flatnonzero(~keep)
    rows = np.eye(len(w))[lost]
    kkt = np.block([[h, rows.T], [rows, np.zeros((len(lost), len(lost)))]])
    return w + np.linalg.solve(kkt, np.concatenate([np.zeros(len(w)), -w[lost]]))[: len(w)]


def step_by_step(w, h, allowed=None, group=None):
    """What is lost until each weight goes, with a fresh inverse after every removal."""
    w, left, cost, total = w.copy(), list(range(len(w))), np.full(len(w), np.inf), 0.0
    group = group or len(w)
    while True:
        gone = np.bincount([i // group for i in range(len(w)) if i not in left], minlength=len(w))
        can = [i for i in left if allowed is None or gone[i // group] < allowed]
        if not can:
            return cost
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        price = {q: w[q] ** 2 / (2 * inverse[left.index(q), left.index(q)]) for q in can}
        q = min(price, key=price.get)
        total += price[q]
        cost[q] = total
        w[left] -= w[q] / inverse[left.index(q), left.index(q)] * inverse[:, left.index(q)]
        w[q] = 0
        left.remove(q)


def kept_of(scores, keep):
    """A mask of the highest scores; ties to the lowest index."""
    order = np.argsort(-scores, kind="stable")
    mask = np.zeros(len(scores), bool)
    mask[order[:keep]] = True
    return mask


def test_two_weights_come_out_as_by_hand():
    with precise():
        blocks = at(WEIGHT, H)
        np.testing.assert_allclose(single(blocks, 0.0)[0][0], [0.833333, 0.3125], atol=1e-6)
        for update in (joint, summed):
            moved = update(blocks, 0.0, jnp.array([[True, False]]))[0]
            np.testing.assert_allclose(moved[0] - WEIGHT, [0.25, -0.5], atol=1e-6)
        np.testing.assert_allclose(greedy(blocks, 0.0)[0][0], [0.3125 + 1.5625, 0.3125], atol=1e-6)
    diagonal = {"w": jnp.array([[2.0], [3.0]])}
    seen = []

    class Seen(dst.OBD):
        def scores(self, matrix):
            seen.append(super().scores(matrix))
            return seen[-1]

    dst.prune({"w": WEIGHT[:, None]}, 0.5, method=Seen(diagonal=diagonal))
    np.testing.assert_allclose(seen[0].reshape(-1), [1, 0.375])


def test_the_curvature_is_the_inverse_of_woodburys_recursion():
    gradients = np.array([[1.0, 0.0], [1.0, 1.0]])
    inverse = np.eye(2)
    for g in gradients:
        moved = inverse @ g
        inverse -= np.outer(moved, moved) / (2 + g @ moved)
    table = [[0.545455, -0.181818], [-0.181818, 0.727273]]
    np.testing.assert_allclose(inverse, table, atol=1e-6)
    weight = np.array([[1.0], [0.5]], np.float32)

    def linear(p, g):
        return g @ p["w"][:, 0]

    method = dst.WoodFisher(dampening=1.0)
    batches = [jnp.asarray(g, jnp.float32) for g in gradients]
    pruned, _ = dst.prune({"w": weight}, 0.5, method=method, loss=linear, batches=batches)
    expected = weight[0, 0] - weight[1, 0] / inverse[1, 1] * inverse[0, 1]
    np.testing.assert_allclose(pruned["w"][:, 0], [expected, 0], rtol=1e-6)


def test_blocks_are_consecutive_inputs_of_an_output():
    matrices = jnp.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    rows = in_blocks(matrices, 7)
    assert rows.shape == (4, 7) and rows[0].tolist() == [0, 4, 8, 1, 5, 9, 2]
    assert rows[-1, 3:].tolist() == [0] * 4
    np.testing.assert_array_equal(from_blocks(rows, (2, 3, 4)), matrices)


@pytest.mark.parametrize(("size", "memory"), [(1000, 1e-9), (10, 3e-6)])
def test_scores_are_those_of_numpys_inverse(size, memory):
    """In one pass or many; a block larger than the matrix is the whole matrix."""
    seen = {}

    class Seen(dst.OBERT):
        def scores(self, matrix):
            seen[matrix.name] = super().scores(matrix)
            return seen[matrix.name]

    method = Seen(block=size, dampening=1e-2, memory=memory)
    dst.prune(PARAMS, 0.5, method=method, loss=loss, batches=BATCHES)
    for path, found in seen.items():
        f = diagonal_blocks(fisher(path), size) + 1e-2 * np.eye(PARAMS[path].size)
        w = flat(PARAMS[path])
        expected = w**2 / (2 * np.diag(np.linalg.inv(f)))
        np.testing.assert_allclose(flat(found[0]), expected, rtol=2e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_network_is_pruned_as_numpy_does(method, scope):
    method = type(method)(**{**vars(method), "scope": scope})
    pruned, masks = dst.prune(PARAMS, 0.6, method=method, loss=loss, batches=BATCHES)
    scores, hessians = {}, {}
    for path in SHAPES:
        w = flat(PARAMS[path])
        f = diagonal_blocks(fisher(path), 10)
        h = hessians[path] = f + 1e-2 * np.eye(len(w))
        if isinstance(method, dst.OBD):
            scores[path] = np.diag(f) * w**2 / 2
        elif isinstance(method, dst.CAP):
            parts = [slice(i, min(i + 10, len(w))) for i in range(0, len(w), 10)]
            scores[path] = np.concatenate([step_by_step(w[s], h[s, s]) for s in parts])
        else:
            scores[path] = w**2 / (2 * np.diag(np.linalg.inv(h)))
    sizes = [len(scores[p]) for p in SHAPES]
    if scope == "global":
        keep = sum(sizes) - int(0.6 * sum(sizes))
        whole = np.split(kept_of(np.concatenate(list(scores.values())), keep), [sizes[0]])
        expected = dict(zip(SHAPES, whole, strict=True))
    else:
        expected = {p: kept_of(s, len(s) - int(0.6 * len(s))) for p, s in scores.items()}
    for path, mask in expected.items():
        w, h = flat(PARAMS[path]), hessians[path]
        np.testing.assert_array_equal(flat(masks[path]).astype(bool), mask)
        if isinstance(method, dst.OBD):
            result = np.where(mask, w, 0)
        elif isinstance(method, dst.WoodFisher):
            inverse = np.linalg.inv(h)
            result = np.where(mask, w - inverse @ np.where(mask, 0, w / np.diag(inverse)), 0)
        else:
            result = constrained(w, h, mask)
        np.testing.assert_allclose(flat(pruned[path]), result, rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(pruned[path] != 0), masks[path])


def test_the_joint_update_is_the_constrained_minimum():
    for seed in range(4):
        draw = np.random.default_rng(seed)
        w, x = draw.normal(size=9), draw.normal(size=(12, 9))
        h, keep = x.T @ x, draw.random(9) > 0.6
        with precise():
            found = joint(at(w, h), 0.0, jnp.asarray(keep[None]))[0][0]
            each = summed(at(w, h), 0.0, jnp.asarray(keep[None]))[0][0]
        np.testing.assert_allclose(found, constrained(w, h, keep), atol=1e-5)
        first, second = ((np.asarray(v) - w) @ h @ (np.asarray(v) - w) for v in (found, each))
        assert first <= second * (1 + 1e-6)


def test_surgery_step_by_step_is_that_with_fresh_inverses():
    w, x = RANDOM.normal(size=8), RANDOM.normal(size=(20, 8))
    h = x.T @ x
    with precise():
        found = greedy(at(w, h), 0.0)[0][0]
        pattern = greedy(at(w, h), 0.0, n=2, m=4)[0][0]
    np.testing.assert_allclose(found, step_by_step(w, h), rtol=1e-5)
    np.testing.assert_allclose(pattern, step_by_step(w, h, allowed=2, group=4), rtol=1e-5)
    # The loss of a mask is that of its best weights.
    order = np.argsort(found)
    for count in (1, 4, 7):
        keep = np.ones(8, bool)
        keep[order[:count]] = False
        d = constrained(w, h, keep) - w
        assert float(found[order[count - 1]]) == pytest.approx(d @ h @ d / 2, rel=1e-4)


@pytest.mark.evidence
def test_a_unit_costs_what_its_best_removal_costs():
    w, x = RANDOM.normal(size=8), RANDOM.normal(size=(20, 8))
    h = x.T @ x
    with precise():
        found = grouped(at(w, h), 0.0, unit=4)[0][0]
    for i in range(2):
        keep = np.arange(8) // 4 != i
        d = constrained(w, h, keep) - w
        np.testing.assert_allclose(found[4 * i : 4 * i + 4], d @ h @ d / 8, rtol=1e-5)
    pruned, masks = dst.prune(
        PARAMS,
        0.5,
        method=dst.OBERT(block=7, dampening=1e-2),
        structure=dst.Block(2, 1),
        loss=loss,
        batches=BATCHES,
    )
    for path, mask in masks.items():
        pairs = np.asarray(mask).T.reshape(-1, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all()
        h = diagonal_blocks(fisher(path), 6) + 1e-2 * np.eye(mask.size)
        expected = constrained(flat(PARAMS[path]), h, flat(mask).astype(bool))
        np.testing.assert_allclose(flat(pruned[path]), expected, rtol=2e-3, atol=1e-4)
    assert sum(int((~m).sum()) for m in masks.values()) == 2 * (72 // 4)


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: type(m).__name__)
def test_patterns_have_their_counts(method):
    params = {"a": PARAMS["a"]}
    one = {"loss": lambda p, b: (p["a"] * b["a"]).sum(), "batches": BATCHES}
    pruned, masks = dst.prune(params, 0.5, method=method, structure=dst.NM(2, 4), **one)
    assert (np.asarray(masks["a"]).T.reshape(-1, 4).sum(1) == 2).all()
    if not isinstance(method, dst.WoodFisher):
        h = diagonal_blocks(fisher("a"), 8) + 1e-2 * np.eye(48)
        expected = constrained(flat(params["a"]), h, flat(masks["a"]).astype(bool))
        np.testing.assert_allclose(flat(pruned["a"]), expected, rtol=2e-3, atol=1e-4)


def test_without_curvature_magnitudes_rank():
    zeros = [jax.tree.map(np.zeros_like, BATCHES[0])]
    expected = dst.prune(PARAMS, 0.6, method=dst.Magnitude("global"))[1]
    for method in METHODS[1:3]:
        masks = dst.prune(PARAMS, 0.6, method=method, loss=loss, batches=zeros)[1]
        for path, mask in masks.items():
            np.testing.assert_array_equal(mask, expected[path])


def test_of_one_linear_layer_all_agree_with_the_inputs():
    """With squared error the curvature of each output is that of the inputs, ``X^T X``."""
    draw = np.random.default_rng(3)
    x, w = draw.normal(size=(40, 6)), draw.normal(size=(6, 1)).astype(np.float32)
    rows = [jnp.asarray(r, jnp.float32) for r in x * draw.exponential(size=6)]

    def output(p, r):  # its gradient is the row itself
        return (r @ p["w"])[0]

    given = {"loss": output, "batches": rows}
    gram = np.stack(rows).astype(float)
    gram = gram.T @ gram / len(rows)
    found = {}
    for method in (dst.OBS(0.0), dst.CAP(6, 0.0), dst.OBERT(6, 0.0)):
        pruned, masks = dst.prune({"w": w}, 0.5, method=method, **given)
        found[type(method).__name__] = masks["w"]
        expected = constrained(w[:, 0].astype(float), gram, np.asarray(masks["w"][:, 0]))
        np.testing.assert_allclose(pruned["w"][:, 0], expected, atol=1e-4)
    np.testing.assert_array_equal(found["OBS"], found["CAP"])
    # SparseGPT, with this mask, minimises the same but for inputs before the first that goes.
    mask = found["CAP"]
    fixed = dst.SparseGPT(dampening=0.0, mask=_Fixed(mask))
    forward = {"forward": lambda p, r: r[None] @ p["w"], "batches": rows}
    other, _ = dst.prune({"w": w}, 0.5, method=fixed, **forward)
    losses = [
        float((np.asarray(v)[:, 0] - w[:, 0]) @ gram @ (np.asarray(v)[:, 0] - w[:, 0]))
        for v in (dst.prune({"w": w}, 0.5, method=dst.CAP(6, 0.0), **given)[0]["w"], other["w"])
    ]
    assert losses[0] <= losses[1] * (1 + 1e-5)


class _Fixed:
    """A mask that is given."""

    needs = "nothing"

    def __init__(self, mask):
        self.mask = mask

    def __call__(self, matrix):
        mask = jnp.asarray(self.mask)[None]
        return jnp.where(mask, matrix.weight, 0), mask


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_zeros_stay_where_they_are_to_stay(method):
    given = {"method": method, "loss": loss, "batches": BATCHES}
    first, before = dst.prune(PARAMS, 0.4, **given)
    second, after = dst.prune(first, 0.7, preserve=True, **given)
    assert sum(int((~m).sum()) for m in after.values()) == int(0.7 * 72)
    for path, mask in after.items():
        assert not bool((mask & ~before[path]).any())
        np.testing.assert_array_equal(np.asarray(second[path] != 0), mask)
        if isinstance(method, dst.CAP | dst.OBERT):
            alive = flat(before[path]).astype(bool)
            own = diagonal_blocks(fisher(path), 10) + 1e-2 * np.eye(mask.size)
            own = np.where(alive[:, None] & alive[None], own, np.eye(mask.size))
            expected = constrained(flat(first[path]), own, flat(mask).astype(bool))
            np.testing.assert_allclose(flat(second[path]), expected, rtol=2e-3, atol=1e-4)


def test_a_matrix_without_a_factor_gets_more_dampening():
    given = {"loss": loss, "batches": BATCHES[:3]}  # of rank 3
    with pytest.warns(UserWarning, match="its curvature of the loss could not be factorised"):
        pruned, _ = dst.prune(PARAMS, 0.5, method=dst.OBERT(block=10, dampening=0.0), **given)
    assert all(bool(jnp.isfinite(x).all()) for x in pruned.values())
    # The scale of the gradients does not matter: dampening grows to where there is a factor.
    large = [jax.tree.map(lambda x: 1e4 * x, b) for b in BATCHES[:3]]
    with pytest.warns(UserWarning, match="could not be factorised"):
        dst.prune(PARAMS, 0.5, method=dst.OBERT(block=10), loss=loss, batches=large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dst.prune(PARAMS, 0.5, method=dst.OBERT(block=10, dampening=1e-3), **given)


def test_long_passes_say_how_far_they_are():
    steps = []
    given = {"loss": loss, "batches": BATCHES, "progress": steps.append}
    dst.prune(PARAMS, 0.5, method=dst.OBERT(block=10, dampening=1e-2, memory=3e-6), **given)
    doing = [x.doing for x in steps if not x.matrices]
    assert doing[0] == "gradients, pass 1 of 2: 16 of 21" and doing[-1].endswith("21 of 21")
    done = [x.matrices[0].name for x in steps if x.matrices]
    assert done == ["a", "b"] and {x.stages for x in steps} == {2}


def test_a_pruning_that_was_stopped_goes_on(tmp_path):
    class Stopped(Exception):
        pass

    def stop(step):
        if step.matrices:
            raise Stopped

    given = {"loss": loss, "batches": BATCHES, "method": dst.CAP(block=10, dampening=1e-2)}
    whole = dst.prune(PARAMS, 0.5, **given)
    with pytest.raises(Stopped):
        dst.prune(PARAMS, 0.5, directory=tmp_path, progress=stop, **given)
    again = dst.prune(PARAMS, 0.5, directory=tmp_path, **given)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    doubled = {**given, "loss": lambda p, b: 2 * loss(p, b)}
    with pytest.raises(ValueError, match="another loss"):
        dst.prune(PARAMS, 0.5, directory=tmp_path, **doubled)


@pytest.mark.evidence
def test_slices_of_stacked_layers_are_matrices_of_their_own():
    stacked = np.stack([RANDOM.normal(size=(6, 6)) for _ in range(3)]).astype(np.float32)
    x = [jnp.asarray(RANDOM.normal(size=(5, 6)), jnp.float32) for _ in range(9)]

    def forward(p, x):
        return jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, p["w"])[0]

    def squares(p, x):
        return jnp.square(forward(p, x)).sum()

    def apart(p, x):
        for i in range(3):
            x = jnp.tanh(x @ p[f"w{i}"])
        return jnp.square(x).sum()

    for scope in ("global", "layer"):
        method = dst.OBERT(block=10, dampening=1e-2, scope=scope)
        given = {"method": method, "batches": x}
        one, _ = dst.prune(
            {"w": stacked}, 0.5, forward=forward, loss=squares, stacked={"w": 1}, **given
        )
        several = {f"w{i}": stacked[i] for i in range(3)}
        other, _ = dst.prune(several, 0.5, loss=apart, **given)
        for i in range(3):
            np.testing.assert_allclose(one["w"][i], other[f"w{i}"], rtol=1e-3, atol=1e-4)


def test_methods_are_parts_and_names():
    from dst.oneshot import named

    made = named.method("obert(block=64, scope='layer')")
    assert made == dst.OBERT(block=64, scope="layer")
    assert named.method("sparsegpt(mask=cap)") == dst.SparseGPT(mask=dst.CAP())
    x = [jnp.asarray(RANDOM.normal(size=(5, 8)), jnp.float32) for _ in range(4)]
    given = {
        "forward": lambda p, x: x @ p["a"],
        "loss": lambda p, x: jnp.square(x @ p["a"]).sum(),
        "batches": x,
    }
    inner = dst.OBERT(dampening=1e-2, scope="layer")
    params = {"a": PARAMS["a"]}
    mask = dst.prune(params, 0.5, method=inner, **given)[1]["a"]
    both = dst.prune(params, 0.5, method=dst.SparseGPT(mask=inner), **given)[1]["a"]
    np.testing.assert_array_equal(mask, both)


def test_what_cannot_be_is_refused():
    given = {"loss": loss, "batches": BATCHES}
    with pytest.raises(ValueError, match="OBERT reads the loss: give loss="):
        dst.prune(PARAMS, 0.5, method=dst.OBERT(), batches=BATCHES)
    with pytest.raises(ValueError, match="OBERT looks at calibration data: give batches="):
        dst.prune(PARAMS, 0.5, method=dst.OBERT(), loss=loss)
    with pytest.raises(ValueError, match=r"Use OBERT\(scope='layer'\)"):
        dst.prune(PARAMS, 0.5, method=dst.OBERT(), allocation="erk", **given)
    dst.prune(PARAMS, 0.5, method=dst.OBD(scope="layer"), allocation="erk", **given)
    with pytest.raises(ValueError, match="a: CAP prunes in the structures Unstructured, NM"):
        dst.prune(PARAMS, 0.5, method=dst.CAP(), structure=dst.Block(2, 1), **given)
    with pytest.raises(ValueError, match=r"Use dst.Block\(2, 1\)"):
        dst.prune(PARAMS, 0.5, method=dst.OBERT(), structure=dst.Block(2, 2), **given)
    with pytest.raises(ValueError, match="fixes their number"):
        dst.prune(PARAMS, 0.5, method=dst.OBD(), structure=dst.ConstantFanIn(), **given)
    with pytest.raises(ValueError, match="OBS prunes matrices of at most 4096 weights, found 4225"):
        square = {"w": np.ones((65, 65), np.float32)}
        dst.prune(square, 0.5, method=dst.OBS(), loss=lambda p, b: p["w"].sum(), batches=BATCHES)
    with pytest.raises(ValueError, match="finite gradient of a, found NaN"):
        broken = [jax.tree.map(lambda x: x * np.nan, BATCHES[0])]
        dst.prune(PARAMS, 0.5, method=dst.CAP(), loss=loss, batches=broken)
    with pytest.raises(ValueError, match="diagonal: expected one for b, found those of a"):
        dst.prune(PARAMS, 0.5, method=dst.OBD(diagonal={"a": np.ones((8, 6))}))
    with pytest.raises(ValueError, match="diagonal of a must have the shape of the leaf"):
        dst.prune(PARAMS, 0.5, method=dst.OBD(diagonal={"a": np.ones((6, 8))}))
    lone = Matrix("w", jnp.ones((1, 2, 2)), None, Fraction(1, 2))
    with pytest.raises(ValueError, match="w: this method reads the curvature of the loss"):
        dst.OBERT()(lone)
    for method, bad in (
        (dst.OBERT, {"block": 0}),
        (dst.OBERT, {"update": "each"}),
        (dst.WoodFisher, {"dampening": -1.0}),
        (dst.CAP, {"memory": 0.0}),
        (dst.OBD, {"scope": "row"}),
        (dst.OBS, {"dampening": -1.0}),
    ):
        with pytest.raises(ValueError, match=f"of {method.__name__}"):
            method(**bad)
