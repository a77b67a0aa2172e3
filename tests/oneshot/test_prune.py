"""Laws of pruning with calibration data: whole networks, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import dst
import dst.nnx
from dst.core import tree
from dst.oneshot import calibrate, stages
from tests.oneshot.test_calibrate import BATCHES, PROGRAMS, WIDTH, normal

PARAMS = {"a": normal(8, 6), "b": normal(6, 4)}
X = [normal(20, 8) for _ in range(2)]
METHODS = [
    dst.Magnitude(),
    dst.Wanda(),
    dst.SparseGPT(block=4),
    dst.SparseGPT(mask=dst.Wanda()),
    dst.ALPS(),
    dst.DSnoT(accept="reduce"),
]


def forward(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def wanda(w, x, sparsity):
    scores = abs(w) * np.sqrt((x.astype(np.float64) ** 2).sum(0))[:, None]
    lost = np.argsort(np.argsort(scores, axis=0), axis=0) < int(len(w) * sparsity)
    return np.where(lost, 0, w)


def test_a_stage_sees_the_pruned_weights_before_it():
    pruned, masks = dst.prune(PARAMS, 0.5, method=dst.Wanda(), forward=forward, batches=X)
    x = np.concatenate(X)
    first = wanda(PARAMS["a"], x, 0.5)
    np.testing.assert_array_equal(pruned["a"], first)
    second = wanda(PARAMS["b"], np.tanh(x @ first), 0.5)
    np.testing.assert_array_equal(pruned["b"], second)
    assert all((np.asarray(pruned[p] != 0) == masks[p]).all() for p in masks)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("program", ["a list", "a scan of remat"])
def test_all_programs_of_a_network_lose_the_same_weights(method, program):
    function, blocks = PROGRAMS[program]
    pruned, masks = dst.prune(
        {"blocks": blocks}, 0.5, method=method, forward=function, batches=BATCHES
    )
    plain, weights = PROGRAMS["a list"]
    expected, _ = dst.prune({"blocks": weights}, 0.5, method=method, forward=plain, batches=BATCHES)
    for i, block in enumerate(expected["blocks"]):
        for name, w in block.items():
            one = pruned["blocks"]
            found = one[i][name] if isinstance(one, list) else one[name][i]
            np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-5)
            assert int((w != 0).sum()) == w.size // 2
    assert sum(int((~m).sum()) for m in masks.values()) * 2 == sum(m.size for m in masks.values())


def test_second_order_methods_lose_less_of_the_output():
    w, scale = PARAMS["a"], np.array([[0.1, 0.3, 0.5, 1, 1, 2, 4, 8]], np.float32)
    batches = [x * scale for x in X]
    x, lost = np.concatenate(batches), []
    for method in (
        dst.Magnitude(),
        dst.Wanda(),
        dst.SparseGPT(mask=dst.Wanda()),
        dst.SparseGPT(),
        dst.ALPS(),
    ):
        reports = []
        pruned, _ = dst.prune(
            {"a": w},
            0.5,
            method=method,
            forward=lambda p, x: x @ p["a"],
            batches=batches,
            progress=reports.append,
        )
        lost.append(((x @ (np.asarray(pruned["a"]) - w)) ** 2).sum())
        if method.needs == "gram":
            (report,) = reports[0].matrices
            assert report.error == pytest.approx(lost[-1] / ((x @ w) ** 2).sum(), rel=1e-4)
            assert report.name == "a" and report.sparsity == 0.5
    assert lost[0] > lost[1] > max(lost[2:])


def test_dtype_and_sharding_stay():
    mesh = Mesh(np.array(jax.devices()), ("x",))
    placed = NamedSharding(mesh, PartitionSpec("x"))
    weights = jnp.asarray(normal(16, 8))
    params = {"w": jax.device_put(weights.astype(jnp.bfloat16), placed), "b": jnp.ones(8)}
    x = normal(4, 16)

    def product(p, x):
        return x.astype(p["w"].dtype) @ p["w"] + p["b"][None]

    for method in (dst.Wanda(), dst.SparseGPT()):
        pruned, masks = dst.prune(params, 0.5, method=method, forward=product, batches=[x])
        assert pruned["w"].dtype == jnp.bfloat16
        assert pruned["w"].sharding == placed and masks["w"].sharding == placed
        alone = {**params, "w": weights.astype(jnp.bfloat16)}
        expected, _ = dst.prune(alone, 0.5, method=method, forward=product, batches=[x])
        np.testing.assert_allclose(
            np.asarray(pruned["w"], np.float32), np.asarray(expected["w"], np.float32), atol=1e-2
        )
    assert pruned["b"] is params["b"]


@pytest.mark.parametrize(
    ("method", "program"), [(dst.Wanda(), "a scan of remat"), (dst.SparseGPT(), "a list")]
)
def test_eight_devices_prune_like_one(method, program):
    mesh = Mesh(np.array(jax.devices()), ("x",))
    forward, blocks = PROGRAMS[program]

    def placed(x):
        axes = ["x" if n % 8 == 0 else None for n in x.shape]
        axes = (
            [a if axes.index("x") == i else None for i, a in enumerate(axes)] if any(axes) else []
        )
        return jax.device_put(jnp.asarray(x), NamedSharding(mesh, PartitionSpec(*axes)))

    options = {"method": method, "forward": forward}
    one, masks = dst.prune({"blocks": blocks}, 0.5, batches=BATCHES, **options)
    params, batches = {"blocks": jax.tree.map(placed, blocks)}, [placed(x) for x in BATCHES]
    eight, others = dst.prune(params, 0.5, batches=batches, **options)
    for x, y, before in zip(*map(jax.tree.leaves, (one, eight, params)), strict=True):
        np.testing.assert_allclose(y, x, atol=1e-5)
        assert y.sharding == before.sharding
    for name, mask in masks.items():
        np.testing.assert_array_equal(others[name], mask)


def test_masks_go_to_training():
    _, masks = dst.prune(PARAMS, 0.5, method=dst.Wanda(), forward=forward, batches=X)
    state = dst.sparsify(optax.sgd(0.1), dst.FromMasks(masks)).init(
        jax.tree.map(jnp.asarray, PARAMS)
    )
    assert all((dst.masks(state)[p] == masks[p]).all() for p in masks)


def test_zeros_that_are_there_stay():
    random = np.random.default_rng(0)
    params = {n: np.where(random.random(w.shape) < 0.3, 0, w) for n, w in PARAMS.items()}
    for method in METHODS:
        for sparsity in (0.1, 0.5):
            pruned, masks = dst.prune(
                params, sparsity, method=method, forward=forward, batches=X, preserve=True
            )
            for n, w in params.items():
                assert (np.asarray(pruned[n])[w == 0] == 0).all()
                assert not np.asarray(masks[n])[w == 0].any()


@dataclass(frozen=True)
class First:
    """Keeps the first weights of every output, whatever they are."""

    needs: ClassVar[str] = "nothing"

    def __call__(self, matrix):
        place = jnp.arange(matrix.weight.shape[1], dtype=jnp.float32)
        mask = matrix.best(jnp.broadcast_to(-place[None, :, None], matrix.weight.shape), "output")
        return jnp.where(mask, matrix.weight, 0), mask


def test_a_method_of_the_users_own_needs_no_data_unless_it_says_so():
    params = {"conv": normal(3, 3, 4, 5), "stack": normal(2, 8, 6)}
    options = {"stacked": {"stack": 1}}
    pruned, masks = dst.prune(params, 0.5, method=First(), **options)
    assert np.asarray(masks["stack"])[:, :4].all() and not np.asarray(masks["stack"])[:, 4:].any()
    assert (np.asarray(masks["conv"]).reshape(36, 5)[:18]).all()
    with pytest.raises(ValueError, match="Wanda looks at calibration data: give forward="):
        dst.prune(params, 0.5, method=dst.Wanda(), **options)
    with pytest.raises(ValueError, match="method must be a one-shot method"):
        dst.prune(params, 0.5, method="wanda")


def test_owl_meets_the_global_sparsity():
    function, blocks = PROGRAMS["a list"]
    outlier = np.where(np.arange(WIDTH)[:, None] == 1, np.float32(40), np.float32(1))
    loud = [*blocks[:2], {**blocks[2], "gate": blocks[2]["gate"] * outlier}]
    for method in (dst.Magnitude(), dst.Wanda()):
        _, masks = dst.prune(
            {"blocks": loud},
            0.6,
            method=method,
            forward=function,
            batches=BATCHES,
            allocation=dst.OWL(outlier=3.0),
        )
        lost = sum(int((~m).sum()) for m in masks.values())
        total = sum(m.size for m in masks.values())
        # Counts per output are rounded down.
        assert 0.6 - 0.08 < lost / total <= 0.6
        kept = [sum(int(masks[f"blocks/{i}/{n}"].sum()) for n in loud[i]) for i in range(3)]
        assert len(set(kept)) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": dst.NM(2, 4), "sparsity": 0.7}, "sparsity must be 0.5"),
        ({"structure": dst.NM(2, 5), "sparsity": 0.6}, r"a of shape .* multiples of 5"),
        ({"allocation": "global"}, "layers cannot compete"),
        ({"allocation": "owl!"}, "allocation"),
        ({"blocks": "layers"}, "blocks"),
        ({"sparsity": 50}, "Did you mean 0.5"),
        ({"allocation": dst.OWL(), "overrides": {"a": {"sparsity": 0.2}}}, "one of their own"),
        ({"overrides": {"a": {"density": 0.2}}}, "unknown"),
    ],
)
def test_what_cannot_be_pruned_is_refused(options, message):
    options = {"sparsity": 0.5, **options}
    with pytest.raises(ValueError, match=message):
        dst.prune(PARAMS, method=dst.Wanda(), forward=forward, batches=X, **options)


def test_leaves_may_have_their_own_sparsity_or_stay_dense():
    _, masks = dst.prune(
        PARAMS,
        0.5,
        method=dst.Wanda(),
        forward=forward,
        batches=X,
        overrides={"a": {"sparsity": 0.25}, "b": {"sparsity": 0}},
    )
    assert set(masks) == {"a"} and (np.asarray(masks["a"]).sum(0) == 6).all()


def test_nnx_models_are_pruned_in_place():
    model = nnx.Sequential(
        nnx.Linear(WIDTH, 12, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(12, 4, rngs=nnx.Rngs(1))
    )
    before = nnx.state(model, nnx.Param)
    masks = dst.nnx.prune(model, 0.5, method=dst.SparseGPT(), batches=BATCHES)
    assert set(masks) == {"layers/0/kernel", "layers/2/kernel"}
    assert int((model.layers[0].kernel[...] != 0).sum()) == WIDTH * 6
    assert (np.asarray(before["layers"][0]["bias"][...]) == model.layers[0].bias[...]).all()
    assert all((dst.nnx.masks(model)[p] == masks[p]).all() for p in masks)


class Recorded(calibrate.Programs):
    """Remembers the shapes with which programs are called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __call__(self, kind, *args):
        run = super().__call__(kind, *args)

        def recorded(*values):
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), values)
            self.calls.append((kind, run, shapes))
            return run(*values)

        return recorded

    def temporary_bytes(self):
        found = {}
        for kind, run, shapes in self.calls:
            if kind != "view" and run not in found:
                found[run] = run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        return sorted(found.values())


@pytest.mark.parametrize("program", ["a list", "a scan"])
def test_memory_and_programs_do_not_grow_with_the_number_of_blocks(program, monkeypatch):
    monkeypatch.setattr(calibrate, "Programs", Recorded)
    forward, _ = PROGRAMS[program]
    _, first = PROGRAMS["a list"]
    seen = []
    for layers in (2, 4, 8):
        blocks = [{n: normal(*w.shape) for n, w in first[0].items()} for _ in range(layers)]
        if program == "a scan":
            blocks = {n: np.stack([w[n] for w in blocks]) for n in first[0]}
        paths, leaves, _ = tree.flatten({"blocks": blocks})
        plan = stages.plan(forward, {"blocks": blocks}, BATCHES[0], paths)
        walk = calibrate.Walk(plan, leaves, BATCHES, "gram", None)
        for number in range(len(plan.stages)):
            walk.statistics(number)
            walk.advance(number)
        kinds = [kind for kind, *_ in walk.programs.compiled]
        assert kinds.count("statistics") <= 3 and kinds.count("forward") <= 3
        sizes = [(stage.gram_bytes, stage.live_bytes) for stage in plan.stages]
        seen.append((sizes[:2], set(sizes), walk.programs.temporary_bytes()))
    assert seen[0] == seen[1] == seen[2]
