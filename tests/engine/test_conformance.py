"""Every method meets every inner optimizer in every container, checked at every step."""

from __future__ import annotations

import math
import operator
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
    holds: Callable[[dict[str, int], dict[str, int]], bool] = operator.eq  # actual, expected


def settings(steps: int) -> dict[str, Any]:
    return {"sparsity": SPARSITY, "allocation": "uniform", "every": EVERY, "stop": steps}


def gmp_counts(count: int, steps: int) -> dict[str, int]:
    last_step = max((t for t in range(0, 2 * EVERY + 1, EVERY) if t <= count), default=0)
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

# First-rank methods with masks. Where connections move between layers, their sum is what stays.


def same_sum(actual: dict[str, int], expected: dict[str, int]) -> bool:
    """Whether as many are active in all layers together."""
    return sum(actual.values()) == sum(expected.values())


def nearly(actual: dict[str, int], expected: dict[str, int]) -> bool:
    """Whether a layer's budget is spent but for less than one weight per neuron."""
    neurons = {path: shape[1] for path, shape in SHAPES.items()}
    return all(n - neurons[path] < actual[path] <= n for path, n in expected.items())


def dense_in(*intervals: range) -> Callable[[int, int], dict[str, int]]:
    """All weights after these updates (-1: at the start), the sparsity after all others."""

    def counts(count: int, steps: int) -> dict[str, int]:
        if any(count in interval for interval in intervals):
            return {path: n * m for path, (n, m) in SHAPES.items()}
        return kept(count, steps)

    return counts


def in_rounds(rounds: int) -> Callable[[int, int], dict[str, int]]:
    """A geometric fall over the first updates: one entry holds the sum of all layers."""

    def counts(count: int, steps: int) -> dict[str, int]:
        size = sum(n * m for n, m in SHAPES.values())
        gone = 1 - (1 - SPARSITY) ** (min(count + 1, rounds) / rounds)
        return {"all": size - math.floor(gone * size + 1e-9)}

    return counts


WINDOW = {"every": EVERY, "start": EVERY, "stop": 2 * EVERY}
FIRST_RANK = {
    "snfs": Case(lambda n: dst.SNFS(**settings(n)), kept, holds=same_sum),
    "mest": Case(
        lambda n: dst.MEST(SPARSITY, (0.1, 0.05, 0.0), (20, 2 * EVERY), every=EVERY), kept
    ),
    "srigl": Case(lambda n: dst.SRigL(**settings(n)), kept, holds=nearly),
    "granet": Case(
        lambda n: dst.GraNet(SPARSITY, every=EVERY, prune_stop=2 * EVERY, stop=n),
        gmp_counts,
        holds=same_sum,
    ),
    "ac-dc": Case(
        lambda n: dst.ACDC(SPARSITY, every=EVERY, start=0, stop=2 * EVERY),
        dense_in(range(-1, 0), range(EVERY, 2 * EVERY)),
        holds=same_sum,
    ),
    "snip": Case(lambda n: dst.SNIP(SPARSITY), dense_in(range(-1, 0)), holds=same_sum),
    "iterative-snip": Case(
        lambda n: dst.iterative_snip(SPARSITY, rounds=3), in_rounds(3), holds=same_sum
    ),
    "force": Case(lambda n: dst.FORCE(SPARSITY, rounds=3), in_rounds(3), holds=same_sum),
    "grasp": Case(lambda n: dst.GraSP(SPARSITY), dense_in(range(-1, 0)), holds=same_sum),
    "synflow": Case(lambda n: dst.SynFlow(SPARSITY, rounds=3), in_rounds(3), holds=same_sum),
    "snip-ratio": Case(lambda n: dst.SNIPRatio(SPARSITY), dense_in(range(-1, 0)), holds=same_sum),
    "asp": Case(lambda n: dst.ASP(1, 4), kept, changes=False),
    "spdf": Case(lambda n: dst.SPDF(SPARSITY, lift=EVERY), dense_in(range(EVERY, 10**6))),
    "dsr": Case(
        lambda n: dst.DSR(SPARSITY, 8, "uniform", 0.05, every=EVERY, stop=n), kept, holds=same_sum
    ),
    "gse": Case(lambda n: dst.GSE(**settings(n)), kept, holds=same_sum),
    "chts": Case(lambda n: dst.CHTs(**settings(n)), kept),
    "smet": Case(lambda n: dst.smet(**settings(n)), kept),
    "journey": Case(
        lambda n: dst.journey(SPARSITY, compute=False, **WINDOW), dense_in(range(-1, 2 * EVERY))
    ),
    "gmp-lamp": Case(
        lambda n: dst.GMP(SPARSITY, allocation="lamp", **WINDOW),
        dense_in(range(-1, 2 * EVERY)),
        holds=same_sum,
    ),
    "rigl-accumulated": Case(lambda n: dst.RigL(accumulate=4, **settings(n)), kept),
    "rigl-blocks": Case(lambda n: dst.RigL(structure=dst.Block(2, 2), **settings(n)), kept),
}
METHODS |= FIRST_RANK
# In `make test` three methods meet everything; the others two of these, and variants one.
CORE = ("set", "rigl", "gmp")
SHORT = ("adamw", "multi_steps", "sgd")
VARIANTS = ("set-itop", "rigl-itop", "dense", "gmp-lamp", "rigl-accumulated", "rigl-blocks")

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

FACTORED = ("adafactor_factored",)  # its slots belong to rows and columns
EPSILON = {"adafactor": 1e-30}  # which it adds to the square of every gradient

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
    case = EVERYTHING[method]
    rule = case.method(updates).rule()
    accumulate, run = run_of(container, rule, inner, options)

    history, done = [], 0
    warm_until = accumulate * (EVERY + 1)  # the first topology step is compiled by then
    with compilations() as compiled:
        for micro in range(updates * accumulate):
            count, rest = divmod(micro, accumulate)
            emits = rest == accumulate - 1
            measured = run.step(bool(emits and rule.fires(count)))
            done += emits and rule.fires(count)
            history.append((count + emits, done, measured))
            if micro + 1 == warm_until:
                warm = compiled.count
        assert compiled.count == warm, "a step was compiled a third time"

    for count, steps, measured in jax.device_get(history):
        assert measured["off"] == 0.0
        if method not in LATENT:  # latent variables have gradients everywhere
            assert measured["off_moment"] <= EPSILON.get(inner, 0.0)
            assert (measured["slots"] > 0) == (inner not in FACTORED and bool(measured["active"]))
        expected = case.active(count - 1, updates)
        assert case.holds(measured["active"], expected), (measured["active"], expected)
        assert measured["done"] == steps
    assert (done > 0) == case.changes
    run.check()


def in_short(method: str, inner: str) -> bool:
    """Whether `make test` runs the pair."""
    return method in CORE or inner in SHORT[: 1 if method in VARIANTS else 2]


GRID = [(m, inner) for m in METHODS for inner in [*INNERS, *AROUND] if in_short(m, inner)]


@pytest.mark.parametrize(("method", "inner"), GRID)
def test_every_method_meets_every_inner_optimizer(method, inner):
    run_cell("dict", method, inner, updates=40, options=QUICK)


SHORT_PAIR = ("nnx", "rigl")
PAIRS = [
    (container, method, inner)
    for container in ("nnx", "dst.nnx", "linen")
    for method in ("rigl", "gmp")
    for inner in [*INNERS, *AROUND]
    if inner in SHORT or (container, method) == SHORT_PAIR
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


def learned(actual: dict[str, int], expected: dict[str, int]) -> bool:
    """Whether every layer uses some of its weights, at most as many as expected."""
    return all(0 < actual[path] <= n for path, n in expected.items())


LATENT = {
    "str": Case(
        lambda n: dst.STR(SPARSITY, start=-2.0), dense_in(range(-1, 10**6)), False, learned
    ),
    "spartan": Case(lambda n: dst.Spartan(SPARSITY, warm=0, freeze=10), kept),
    "continuous-sparsification": Case(
        lambda n: dst.ContinuousSparsification(SPARSITY, start=0.01, stop=10),
        dense_in(range(-1, 10**6)),
        holds=learned,
    ),
    "l0": Case(
        lambda n: dst.L0(SPARSITY, penalty=1e-3, drop_rate=0.4, stop=n - 10),
        dense_in(range(-1, 10**6)),
        False,
        learned,
    ),
    "soft-movement": Case(
        lambda n: dst.SoftMovement(SPARSITY, threshold=0.5, start=5, stop=20),
        dense_in(range(-1, 10**6)),
        False,
        learned,
    ),
    "trainable-thresholds": Case(
        lambda n: dst.TrainableThresholds(SPARSITY, penalty=0.05),
        dense_in(range(-1, 10**6)),
        False,
        learned,
    ),
    "sr-ste": Case(lambda n: dst.SRSTE(1, 4), kept, changes=False),
    "t-sr-ste": Case(lambda n: dst.TSRSTE(1, 4, every=EVERY), kept),
    "s-ste": Case(lambda n: dst.SSTE(1, 4), kept, changes=False),
    "mask-decay": Case(lambda n: dst.MaskDecay(1, 4, start=5, stop=n - 10), decayed, changes=False),
    "mask-llm": Case(lambda n: dst.MaskLLM(1, 4, stop=n - 10), decayed, changes=False),
    "structure-decay": Case(lambda n: dst.StructureDecay(1, 4, start=5, stop=20), staged, False),
    "movement": Case(
        lambda n: dst.Movement(SPARSITY, start=5, stop=20),
        lambda count, steps: cubic_counts(min(max(count, 5), 20), 5, 20),
        changes=False,
    ),
    "powerprop": Case(
        lambda n: dst.Powerprop(SPARSITY, prune=10), dense_in(range(-1, 10)), changes=False
    ),
    "top-kast": Case(lambda n: dst.TopKAST(SPARSITY, 0.5), kept, changes=False),
    "top-kast-every": Case(lambda n: dst.TopKAST(SPARSITY, 0.5, every=EVERY), kept),
    "edge-popup": Case(lambda n: dst.EdgePopup(SPARSITY), kept, changes=False),
    "piggyback": Case(
        lambda n: dst.Piggyback(SPARSITY), dense_in(range(-1, 10**6)), False, learned
    ),
    "hydra": Case(lambda n: dst.HYDRA(SPARSITY), kept, changes=False),
    "top-k-weights": Case(lambda n: dst.TopKWeights(SPARSITY, anneal=0), kept, changes=False),
}
# A container shows in the shape of the state alone. So the methods that came first meet every inner
# optimizer in each, and the others in one.
NEW = [*FIRST_RANK, *LATENT]
EVERYTHING = METHODS | LATENT
FULL_GRID = [
    (container, method, inner)
    for container in ("dict", "nnx", "dst.nnx", "linen")
    for method in EVERYTHING
    for inner in [*INNERS, *AROUND]
    if container == "dict" or method not in NEW or inner == "adamw"
    if container != "linen" or method not in ("grasp", "synflow")  # the caller must decide
    if container != "dst.nnx" or inner not in AROUND  # it wraps by itself
]


@pytest.mark.parametrize("inner", SHORT[:2])
@pytest.mark.parametrize("method", LATENT)
def test_latent_methods_meet_inner_optimizers(method, inner):
    run_cell("dict", method, inner, updates=40, options=QUICK)


# The methods that came first are compiled as users compile; the others in a third of the time.
@pytest.mark.evidence
@pytest.mark.parametrize(("container", "method", "inner"), FULL_GRID)
def test_the_full_grid_over_200_steps(container, method, inner):
    run_cell(container, method, inner, updates=200, options=QUICK if method in NEW else None)
