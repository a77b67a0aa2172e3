"""Every method meets every inner optimizer in every container, checked at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

import dst
import dst.nnx
from tests.runs import (
    QUICK,
    SHAPES,
    SPARSITY,
    DictRun,
    LinenRun,
    NnxRun,
    compilations,
    constant_counts,
    cubic_counts,
)

EVERY = 15
GIVEN = {path: np.random.default_rng(1).random(shape) < 0.3 for path, shape in SHAPES.items()}


@dataclass(frozen=True)
class Case:
    """A method for a number of updates, and what its masks must hold after an update."""

    method: Callable[[int], Any]
    active: Callable[[int, int], dict[str, int]]
    changes: bool = True


def settings(steps: int) -> dict[str, Any]:
    return {"sparsity": SPARSITY, "allocation": "uniform", "every": EVERY, "stop": steps}


def gmp_counts(count: int, steps: int) -> dict[str, int]:
    last_step = max(t for t in [0, *range(EVERY, 2 * EVERY + 1, EVERY)] if t <= count)
    return cubic_counts(last_step, 0, 2 * EVERY)


def kept(count: int, steps: int) -> dict[str, int]:
    return constant_counts(count)


METHODS = {
    "static": Case(lambda n: dst.Static(SPARSITY, allocation="uniform"), kept, changes=False),
    "set": Case(lambda n: dst.SET(**settings(n)), kept),
    "rigl": Case(lambda n: dst.RigL(**settings(n)), kept),
    "set-itop": Case(lambda n: dst.set_itop(**settings(n)), kept),
    "rigl-itop": Case(lambda n: dst.rigl_itop(**settings(n)), kept),
    "gmp": Case(
        lambda n: dst.GMP(SPARSITY, allocation="uniform", every=EVERY, start=0, stop=2 * EVERY),
        gmp_counts,
    ),
    "from_masks": Case(
        lambda n: dst.FromMasks(GIVEN),
        lambda count, steps: {path: int(mask.sum()) for path, mask in GIVEN.items()},
        changes=False,
    ),
    "dense": Case(lambda n: dst.Dense(), lambda count, steps: {}, changes=False),
}

# Inner optimizers go inside `sparsify`.
INNERS = {
    "sgd": lambda: optax.sgd(0.05, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-2),
    "lion": lambda: optax.lion(3e-3),
    "adafactor": lambda: optax.adafactor(1e-2),
    "adafactor_factored": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=4),
    "muon": lambda: optax.contrib.muon(1e-2),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(1e-2),
    "clip_adam": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    "inject": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2),
}

# What goes around it: (micro-steps per update, wrapper).
AROUND = {
    "multi_steps": (2, lambda tx: optax.MultiSteps(tx, 2)),
    "partition": (1, lambda tx: optax.partition({"kernel": tx, "bias": optax.sgd(0.1)}, labels)),
}


def labels(params: Any) -> Any:
    """``kernel`` or ``bias``, by the last segment of the path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "bias" if "bias" in jax.tree_util.keystr(path) else "kernel", params
    )


def wrapped(inner: str, method: Any) -> tuple[int, Any]:
    """Micro-steps per update, and the transformation."""
    if inner in INNERS:
        return 1, dst.sparsify(INNERS[inner](), method)
    accumulate, around = AROUND[inner]
    return accumulate, around(dst.sparsify(optax.adamw(1e-2), method))


CONTAINERS = {
    "dict": DictRun,
    "linen": LinenRun,
    "nnx": lambda tx, options: NnxRun(
        lambda model: nnx.Optimizer(model, tx, wrt=nnx.Param), options
    ),
}


def run_of(container: str, rule: dst.Rule, inner: str, options: Any) -> tuple[int, Any]:
    """Micro-steps per update, and the run."""
    if container == "dst.nnx":
        return 1, NnxRun(lambda model: dst.nnx.Optimizer(model, INNERS[inner](), rule), options)
    accumulate, tx = wrapped(inner, rule)
    return accumulate, CONTAINERS[container](tx, options)


def run_cell(container: str, method: str, inner: str, updates: int, options: Any = None) -> None:
    """Trains and asserts the laws of the grid after every step."""
    case = FULL_GRID[method]
    rule = case.method(updates).rule()
    accumulate, run = run_of(container, rule, inner, options)

    history, done = [], 0
    warm_until = accumulate * (EVERY + 1)  # the first topology step is compiled by then
    with compilations() as compiled:
        for micro in range(updates * accumulate):
            count, rest = divmod(micro, accumulate)
            emits = rest == accumulate - 1
            seen = run.step(bool(emits and rule.fires(count)))
            done += emits and rule.fires(count)
            history.append((count + emits, done, seen))
            if micro + 1 == warm_until:
                warm = compiled.count
        assert compiled.count == warm, "a step was compiled a third time"

    for count, due, seen in jax.device_get(history):
        assert seen["off"] == 0.0
        assert seen["active"] == case.active(max(count - 1, 0), updates)
        assert seen["done"] == due
    assert (done > 0) == case.changes
    run.check()


@pytest.mark.parametrize("inner", [*INNERS, *AROUND])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_meets_every_inner_optimizer(method, inner):
    run_cell("dict", method, inner, updates=40, options=QUICK)


PAIRS = [
    (container, method, inner)
    for container in ("nnx", "dst.nnx", "linen")
    for method in ("rigl", "gmp")
    for inner in [*INNERS, *AROUND]
    if not (container == "dst.nnx" and inner in AROUND)  # it wraps by itself
]


@pytest.mark.parametrize(("container", "method", "inner"), PAIRS)
def test_every_container_meets_every_inner_optimizer(container, method, inner):
    run_cell(container, method, inner, updates=40, options=QUICK)


# Methods whose parameters follow from latent weights.
def decayed(count: int, steps: int) -> dict[str, int]:
    """All weights until the mask is hard."""
    hard = count + 1 >= steps - 10
    return constant_counts(count) if hard else {p: n * m for p, (n, m) in SHAPES.items()}


def staged(count: int, steps: int) -> dict[str, int]:
    """4, 3, 2 and 1 of 4."""
    kept = 4 - sum(count >= s for s in (5, 10, 15))
    return {p: n * m * kept // 4 for p, (n, m) in SHAPES.items()}


LATENT = {
    "sr-ste": Case(lambda n: dst.SRSTE(1, 4), kept, changes=False),
    "mask-decay": Case(lambda n: dst.MaskDecay(1, 4, start=5, stop=n - 10), decayed, changes=False),
    "structure-decay": Case(lambda n: dst.StructureDecay(1, 4, start=5, stop=15), staged, False),
    "top-kast": Case(lambda n: dst.TopKAST(SPARSITY, 0.5), kept, changes=False),
    "top-kast-every": Case(lambda n: dst.TopKAST(SPARSITY, 0.5, every=EVERY), kept),
    "edge-popup": Case(lambda n: dst.EdgePopup(SPARSITY), kept, changes=False),
    "top-k-weights": Case(lambda n: dst.TopKWeights(SPARSITY, anneal=0), kept, changes=False),
}
FULL_GRID = METHODS | LATENT


@pytest.mark.parametrize("inner", ["sgd", "adamw", "multi_steps"])
@pytest.mark.parametrize("method", LATENT)
def test_latent_methods_meet_inner_optimizers(method, inner):
    run_cell("dict", method, inner, updates=40, options=QUICK)


@pytest.mark.evidence
@pytest.mark.parametrize("inner", [*INNERS, *AROUND])
@pytest.mark.parametrize("method", FULL_GRID)
@pytest.mark.parametrize("container", ["dict", "nnx", "dst.nnx", "linen"])
def test_the_full_grid_over_200_steps(container, method, inner):
    if container == "dst.nnx" and inner in AROUND:
        pytest.skip("dst.nnx.Optimizer wraps by itself")
    run_cell(container, method, inner, updates=200)
