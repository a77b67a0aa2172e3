"""Laws of EvoPress: zeros stay as many, the parent never gets worse, a known optimum is found."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.oneshot.evopress import default_step

RANDOM = np.random.default_rng(9)
X = [RANDOM.normal(size=(6, 8)).astype(np.float32) for _ in range(3)]
PARAMS = {
    "a": RANDOM.normal(size=(8, 8)).astype(np.float32),
    "b": (0.1 * RANDOM.normal(size=(8, 4))).astype(np.float32),
    "c": RANDOM.normal(size=(4, 5)).astype(np.float32),
}


def forward(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]


def dense(p, x):
    return jnp.square(forward(p, x) - forward(PARAMS, x)).mean()


def test_the_optimum_of_a_separable_loss_is_found():
    curve, slope = np.array([1, 3, 2, 0.5]), np.array([-4, 5, 1, 2])

    def fitness(levels, batches):
        x = np.array(levels)
        return float((curve * x * x + slope * x).sum())

    low, high = [-3, -2, -3, -1], [2, 3, 3, 3]
    every = itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True)))
    best = min((x for x in every if sum(x) == 0), key=lambda x: fitness(x, ()))
    history = dst.EvoPress(60, offspring=8).search(fitness, low, high, batches=1)
    assert history[-1].levels == best


@pytest.mark.parametrize("seed", range(4))
def test_every_generation_keeps_the_zeros_and_does_not_get_worse(seed):
    random = np.random.default_rng(seed)
    table = random.normal(size=(5, 3, 20))  # of matrix, batch and level: no structure to follow
    seen = []

    def fitness(levels, batches):
        seen.append(tuple(levels))
        return float(np.mean([table[i, b, x] for i, x in enumerate(levels) for b in batches]))

    low, high = [-4, 0, -2, -4, -1], [4, 2, 0, 4, 3]
    method = dst.EvoPress(30, offspring=6, survivors=(3, 1), batches=(1, None), seed=seed)
    history = method.search(fitness, low, high, batches=3)
    assert len(history) == 31 and history[0].levels == (0,) * 5
    for x in [*seen, *(g.levels for g in history)]:
        assert sum(x) == 0
        assert all(a <= level <= b for a, level, b in zip(low, x, high, strict=True))
    found = [g.fitness for g in history]
    assert found == sorted(found, reverse=True) and found[-1] < found[0]
    assert all(g.fitness == fitness(g.levels, range(3)) for g in history)
    assert history == method.search(fitness, low, high, batches=3)


@pytest.mark.parametrize(
    "method", [dst.Magnitude(), dst.SparseGPT(block=8)], ids=["magnitude", "gpt"]
)
def test_a_network_has_exactly_the_global_sparsity(method):
    given = {"forward": forward, "loss": dense, "batches": X, "method": method}
    search = dst.EvoPress(6, offspring=3, levels=2, step=3)
    pruned, masks = dst.prune(PARAMS, 0.6, allocation=search, **given)
    assert sum(int((~m).sum()) for m in masks.values()) == math.floor(Fraction(6, 10) * 116)
    for path, mask in masks.items():
        assert bool(((np.asarray(pruned[path]) != 0) == mask).all())


def test_what_the_search_judges_is_the_network_at_these_levels():
    seen = {}

    class Watched(dst.EvoPress):
        def search(self, fitness, low, high, batches):
            for levels in ((0, 0, 0), (1, -1, 0), (-1, 0, 1)):
                seen[levels] = fitness(levels, range(batches))
            return super().search(fitness, low, high, batches)

    given = {"forward": forward, "loss": dense, "batches": X}
    dst.prune(PARAMS, 0.5, allocation=Watched(1, offspring=1, levels=1, step=4), **given)
    for levels, found in seen.items():
        params = {}
        for (name, w), zeros, level in zip(PARAMS.items(), (32, 16, 10), levels, strict=True):
            order = np.argsort(abs(w).reshape(-1), kind="stable")
            flat = w.reshape(-1).copy()
            flat[order[: zeros + 4 * level]] = 0
            params[name] = flat.reshape(w.shape)
        assert found == pytest.approx(float(np.mean([dense(params, x) for x in X])), rel=1e-5)


def test_methods_by_output_meet_steps_of_whole_inputs():
    assert default_step([(1, 64, 64), (1, 64, 32)]) == 128  # 96 are a 32nd part of the mean
    assert default_step([(1, 8, 8), (1, 8, 5)]) == 1  # 40 are more than a quarter of the smallest
    given = {
        "forward": forward,
        "loss": dense,
        "batches": X,
        "method": dst.Wanda(),
        "select": ["a", "b"],
    }
    search = dst.EvoPress(2, offspring=2, levels=1, step=8)
    _, masks = dst.prune(PARAMS, 0.5, allocation=search, **given)
    assert sum(int((~m).sum()) for m in masks.values()) == 48
    with pytest.raises(ValueError, match="a must lose 2. of its 64 weights, but Wanda prunes 24"):
        dst.prune(PARAMS, 0.5, allocation=dst.EvoPress(2, levels=1, step=5), **given)


@pytest.mark.parametrize("sparsity", [0.9, 0.97])
def test_matrices_that_lose_all_their_weights_do_not_stop_the_search(sparsity):
    params = {"a": PARAMS["a"][:, :2], "b": PARAMS["b"][:2, :1], "c": PARAMS["c"][:1, :1]}
    sizes, given = 16 + 2 + 1, {"forward": forward, "loss": lambda p, x: forward(p, x).mean()}
    search = dst.EvoPress(2, offspring=2)
    _, masks = dst.prune(params, sparsity, allocation=search, batches=X, **given)
    assert sum(int((~m).sum()) for m in masks.values()) == int(sparsity * sizes)


def test_bad_input_is_named():
    for settings in (
        {"generations": 0},
        {"step": 0},
        {"survivors": (0, 1)},
        {"batches": (0, None)},
    ):
        with pytest.raises(ValueError, match="of EvoPress must be"):
            dst.EvoPress(**settings)
    for settings in ({"survivors": (2,)}, {"survivors": (1, 2)}):
        with pytest.raises(ValueError, match="one entry per stage"):
            dst.EvoPress(**settings)
    with pytest.raises(ValueError, match="at equal sparsities, found nan"):
        dst.EvoPress(1).search(lambda levels, batches: math.nan, [-1, -1], [1, 1], batches=1)
    with pytest.raises(ValueError, match="EvoPress reads the loss"):
        dst.prune(PARAMS, 0.5, allocation=dst.EvoPress(), forward=forward, batches=X)
