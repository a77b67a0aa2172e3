"""Methods against twins that are written from their authors' code, on random cases: weights,
gradients, sparsity and durations are drawn. Masks and weights are equal bit for bit.

All numbers are small multiples of powers of two, so that every product is exact. Ties are common;
where an authors' sort leaves them to chance, the twin keeps the lower index, as ``dst`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.rules.allocation import zeros
from dst.rules.ramps import CURVES, share_of
from tests.following import draw
from tests.methods.latent import course
from tests.reference import asp, journey
from tests.reference.edge_popup import EdgePopup
from tests.reference.optimizer import Momentum
from tests.reference.progressive import Progressive, largest
from tests.reference.s_ste import SSTE
from tests.reference.smet import SMET
from tests.reference.spdf import SPDF
from tests.reference.top_k_weights import TopKWeights
from tests.reference.transposable import TSRSTE
from tests.runs import QUICK

SLOW = pytest.mark.evidence
CASES, STEPS = 12, 24
SHAPE = (8, 6)  # inputs, outputs
RATE, MOMENTUM = 0.25, 0.5


def numbers(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Half of the cases have ties; one weight in eight is zero."""
    fine = random.integers(-64, 65, shape) / 32
    coarse = random.integers(-2, 3, shape) / 2
    few = np.where(random.random(shape[0]) < 0.5, True, False).reshape(-1, *[1] * (len(shape) - 1))
    values = np.where(few, coarse, fine)
    return np.where(random.random(shape) < 0.125, 0, values).astype(np.float32)


def trained(method: Any, weights: np.ndarray, grads: np.ndarray, inner: Any = None) -> Any:
    """Parameters, masks and variables ``[case, 1 + step, ...]``, from before the first step."""
    tx = dst.sparsify(inner or optax.sgd(RATE, momentum=MOMENTUM), method, seed=3)
    cases = jax.vmap(lambda *case: course(tx, *case)[0])
    return jax.device_get(jax.jit(cases, compiler_options=QUICK)(weights, grads))


def follow(found: Any, grads: np.ndarray, twin_of: Callable[[int], Any], look: Any) -> None:
    """``look(twin, case, step)`` compares, from before the first step."""
    for case in range(len(grads)):
        twin = twin_of(case)
        look(twin, case, 0)
        for step, grad in enumerate(grads[case], 1):
            twin.step(grad)
            look(twin, case, step)


def drawn(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random, numbers(random, CASES, *SHAPE), numbers(random, CASES, STEPS, *SHAPE)


SEEDS = [0, *(pytest.param(seed, marks=SLOW) for seed in (1, 2, 3))]


@pytest.mark.parametrize("seed", SEEDS)
def test_edge_popup_equals_its_authors_code(seed):
    random, weights, grads = drawn(seed)
    sparsity = int(random.integers(1, 20)) / 20
    method = dst.EdgePopup(sparsity, signed_constant=False)
    params, masks, kept = trained(method, weights, grads)

    def twin(case):
        start = kept["latent"][case, 0]
        return EdgePopup(weights[case], start, zeros(48, sparsity), Momentum(RATE, MOMENTUM))

    def look(twin, case, step):
        np.testing.assert_array_equal(kept["latent"][case, step], twin.scores)
        np.testing.assert_array_equal(masks[case, step], twin.mask)
        np.testing.assert_array_equal(params[case, step], twin.used)

    follow(params, grads, twin, look)


@pytest.mark.parametrize("seed", SEEDS)
def test_top_k_weights_equal_their_authors_code(seed):
    random, weights, grads = drawn(seed)
    sparsity, stop = int(random.integers(1, 20)) / 20, int(random.integers(0, STEPS))
    method = dst.TopKWeights(sparsity, anneal=stop)
    params, masks, _ = trained(method, weights, grads)

    def twin(case):
        inner = Momentum(RATE, MOMENTUM)
        return TopKWeights(params[case, 0], Fraction(str(sparsity)), stop, inner)

    def look(twin, case, step):
        np.testing.assert_array_equal(params[case, step], twin.weights)
        if step:
            np.testing.assert_array_equal(masks[case, step], twin.mask)

    follow(params, grads, twin, look)


@pytest.mark.parametrize("seed", SEEDS)
def test_structure_decay_equals_its_authors_code(seed):
    """A pattern is first used by the forward pass after the step that it begins with: one step
    later than there."""
    random, weights, grads = drawn(seed)
    n, m = [(1, 4), (2, 4), (1, 8), (2, 8)][int(random.integers(4))]
    start = int(random.integers(1, 6))
    stop = start + int(random.integers(6, 16))
    method = dst.StructureDecay(n, m, start=start - 1, stop=stop - 1)
    params, masks, kept = trained(method, weights, grads)

    def twin(case):
        inner = Momentum(RATE, MOMENTUM)
        return Progressive(weights[case], n, m, start, stop, inner, structure=True)

    def look(twin, case, step):
        np.testing.assert_array_equal(kept["latent"][case, step], twin.dense)
        np.testing.assert_array_equal(masks[case, step] & (twin.dense != 0), twin.used != 0)
        close(params[case, step], twin.used)

    follow(params, grads, twin, look)


@pytest.mark.parametrize("seed", SEEDS)
def test_t_sr_ste_equals_its_authors_code(seed):
    """Masks change before the forward passes 0, ``every``, ... ; the decay enters the momentum."""
    random = np.random.default_rng(seed)
    weights, grads = numbers(random, CASES, 8, 8), numbers(random, CASES, STEPS, 8, 8)
    n, m = [(2, 4), (1, 2), (4, 8), (3, 4)][seed]
    decay, every = 2.0 ** -int(random.integers(2, 6)), int(random.integers(1, 9))
    params, masks, kept = trained(dst.TSRSTE(n, m, decay, every), weights, grads)

    def twin(case):
        return TSRSTE(weights[case], n, m, decay, every, Momentum(RATE, MOMENTUM))

    def look(twin, case, step):
        np.testing.assert_array_equal(kept["latent"][case, step], twin.dense)
        np.testing.assert_array_equal(masks[case, step], twin.mask)
        close(params[case, step], twin.used)

    follow(params, grads, twin, look)


@pytest.mark.parametrize("seed", SEEDS)
def test_s_ste_equals_its_authors_code(seed):
    """From the first step on: the first forward pass here has the largest weights as they are."""
    random, weights, grads = drawn(seed)
    n, m = [(2, 4), (1, 4), (3, 8), (1, 2)][seed]
    params, masks, kept = trained(dst.SSTE(n, m), weights, grads)

    def twin(case):
        return SSTE(weights[case], n, m, Momentum(RATE, MOMENTUM))

    def look(twin, case, step):
        np.testing.assert_array_equal(kept["latent"][case, step], twin.dense)
        np.testing.assert_array_equal(masks[case, step], largest(twin.dense, n, m))
        np.testing.assert_allclose(kept["fixed"][case, step], twin.scale, rtol=1e-6)
        if step:
            close(params[case, step], twin.used)

    follow(params, grads, twin, look)


@pytest.mark.parametrize("decay", ["linear", pytest.param("exp", marks=SLOW)])
@pytest.mark.parametrize("seed", SEEDS)
def test_mask_decay_equals_its_authors_code(seed, decay):
    """Where the mask is binary: from ``stop`` on here, after it there."""
    random, weights, grads = drawn(seed)
    n, m = [(1, 4), (2, 4), (1, 8), (3, 8)][int(random.integers(4))]
    start, beta = int(random.integers(1, 6)), 2.0 ** -int(random.integers(2, 6))
    stop = start + int(random.integers(6, 16))
    method = dst.MaskDecay(n, m, decay, beta=beta, start=start, stop=stop + 1)
    params, _, kept = trained(method, weights, grads)

    def fade(t):
        return max(1 - beta * t, 0.0) if decay == "linear" else np.exp(-beta * t)

    def twin(case):
        return Progressive(weights[case], n, m, start, stop, Momentum(RATE, MOMENTUM), fade=fade)

    def look(twin, case, step):
        np.testing.assert_array_equal(kept["latent"][case, step], twin.dense)
        close(params[case, step], twin.used)

    follow(params, grads, twin, look)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within the rounding of ``p + (new - p)``, and zero in the same places."""
    np.testing.assert_array_equal(actual == 0, expected == 0)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_spdf_equals_two_runs(seed):
    random, weights, grads = drawn(seed)
    lift = int(random.integers(1, STEPS - 2))
    method = dst.SPDF([0.25, 0.5, 0.75][int(random.integers(3))], lift=lift)
    params, masks, _ = trained(method, weights, grads)

    def twin(case):
        return SPDF(params[case, 0], masks[case, 0], lift, Momentum(RATE, MOMENTUM))

    def look(twin, case, step):
        np.testing.assert_array_equal(params[case, step], twin.weights)
        np.testing.assert_array_equal(masks[case, step], twin.mask)

    follow(params, grads, twin, look)


@pytest.mark.parametrize("seed", SEEDS)
def test_smet_equals_its_authors_code(seed):
    """But for the ramp: of the update here, of the stored first moment there."""
    random, weights, grads = drawn(seed)
    sparsity, ramp = int(random.integers(4, 17)) / 20, 2 ** int(random.integers(1, 4))
    settings = {
        "drop_fraction": int(random.integers(2, 9)) / 10,
        "every": int(random.integers(2, 5)),
    }
    method = dst.smet(sparsity, cold_start=ramp, stop=STEPS, **settings)
    params, masks, _ = trained(method, weights, grads, inner=optax.sgd(RATE))

    def scores(t):
        return np.asarray(draw("w", t, SHAPE))

    def twin(case):
        given = (settings["drop_fraction"], settings["every"], STEPS, RATE, ramp, scores)
        return SMET(params[case, 0], masks[case, 0], *given)

    def look(twin, case, step):
        np.testing.assert_array_equal(masks[case, step], twin.mask)
        np.testing.assert_array_equal(params[case, step], twin.weights)

    follow(params, grads, twin, look)


@pytest.mark.parametrize(
    ("n", "m", "shape"), [(2, 4, (16, 8)), (1, 4, (12, 6)), (2, 4, (3, 3, 8, 4)), (3, 8, (16, 5))]
)
def test_asp_equals_its_authors_code(n, m, shape):
    """Without ties, which the code decides by the order of a set of patterns."""
    random = np.random.default_rng(n + m)
    kernels = random.normal(size=(CASES, *shape)).astype(np.float32)
    tx = dst.sparsify(optax.sgd(0.1), dst.ASP(n, m))
    start = jax.jit(jax.vmap(lambda w: dst.masks(tx.init({"w": w}))["w"]), compiler_options=QUICK)
    for kernel, found in zip(kernels, np.asarray(start(kernels)), strict=True):
        np.testing.assert_array_equal(found, asp.mask(kernel, n, m))


def test_the_journey_equals_its_authors_code_one_interval_later():
    """300 schedules: theirs prunes at ``start`` already, as the curve from one interval before."""
    random = np.random.default_rng(7)
    for _ in range(300):
        every, times = int(random.integers(1, 80)), int(random.integers(1, 60))
        start = every * int(random.integers(1, 40))
        end, sparsity = start + every * times, int(random.integers(1, 99)) / 100
        method = dst.journey(sparsity, compute=False, every=every, start=start - every, stop=end)
        rule = method.rule()
        for step in range(start - every, end + 3 * every, every):
            ours = 1 - sparsity * float(rule.how_many.ramp(step))
            theirs = journey.kept_share(step, start, end, every, sparsity)
            assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_journey_over_all_layers_equals_its_authors_code(seed):
    """Masks of two layers; of N weights N - floor(s N) stay, there int(N (1 - s))."""
    random = np.random.default_rng(seed)
    sparsity, every, start = int(random.integers(10, 19)) / 20, 2, 4
    end = start + 2 * int(random.integers(3, 8))
    method = dst.journey(
        sparsity, compute=False, every=every, start=start - every, stop=end, allocation="global"
    )
    tx = dst.sparsify(optax.sgd(RATE), method)
    weights = {"a": numbers(random, 1, 8, 6)[0], "b": numbers(random, 1, 12, 5)[0]}
    state = tx.init(weights)
    step = jax.jit(tx.update, compiler_options=QUICK)
    mine, masks = list(weights.values()), [np.ones(w.shape, bool) for w in weights.values()]
    params = jax.tree.map(jnp.asarray, weights)
    size, curve = sum(m.size for m in masks), CURVES["geometric"]
    share = share_of(curve(sparsity, start - every, end), sparsity)
    for t in range(end + 4):
        grads = {name: numbers(random, 1, *w.shape)[0] for name, w in weights.items()}
        if start <= t <= end and t % every == 0:
            masks = journey.pruned(mine, masks, size - zeros(size, sparsity * share(t)))
        mine = [
            np.where(m, w - np.float32(RATE) * g, np.float32(0))
            for w, m, g in zip(mine, masks, grads.values(), strict=True)
        ]
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, w, m in zip(weights, mine, masks, strict=True):
            np.testing.assert_array_equal(dst.masks(state)[name], m)
            np.testing.assert_array_equal(params[name], w)
