"""A layer with a cache gives what lists of entries in NumPy give, and holds the same tokens."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dst.activations.cache import CaM, SnapKV, layer
from dst.models.rotary import Rotary
from tests.activations.cache.models import BUDGET, CHANNELS, POLICIES, READERS
from tests.quick import QUICK
from tests.reference import caches

BATCH, LENGTH, HEADS, KV_HEADS, SIZE = 2, 15, 4, 2, 4
RANDOM = np.random.default_rng(1)
QUERY = RANDOM.normal(size=(BATCH, LENGTH, HEADS, SIZE)) * 2
KEY, VALUE = (RANDOM.normal(size=(2, BATCH, LENGTH, KV_HEADS, SIZE)) * 2).astype(np.float32)
QUERY = QUERY.astype(np.float32)
NUMBER = 1  # of the layer

SETTINGS = {
    "strided": {"stride": 3, "recent": 2},
    "streaming_llm": {"sinks": 2},
    "cam": {"sinks": 2, "merged": 3},
    "h2o": {"recent": 3},
    "snapkv": {"window": 2, "kernel": 3, "pool": "mean"},
}


def run(policy, prompt, number=NUMBER):
    """Outputs, and after every step the positions and the number of entries."""
    rule, rotary = policy.rule(), Rotary(SIZE)
    shape = (BATCH, KV_HEADS, rule.slots(LENGTH), SIZE)
    state, out, kept = layer.empty(rule, number, shape, jnp.float32), [], []
    parts = lambda a, b: (jnp.asarray(x[:, a:b]) for x in (QUERY, KEY, VALUE))  # noqa: E731
    compiled = partial(jax.jit, compiler_options=QUICK)
    if prompt:
        first = compiled(partial(layer.prompt, rule, rotary))
        mixed, state = first(*parts(0, prompt), state)
        out.append(mixed)
        kept.append(state)
    step = compiled(lambda time, *rest: layer.step(rule, time, rotary, *rest))
    for time in range(prompt, LENGTH):
        mixed, state = step(jnp.int32(time), *parts(time, time + 1), state)
        out.append(mixed)
        kept.append(state)
    return np.concatenate(out, axis=1), kept


def positions(state, row):
    """Per head, those that are alive, in order."""
    return [sorted(int(p) for p in head if p >= 0) for head in np.asarray(state.position)[row]]


@pytest.mark.parametrize("prompt", [0, 5, 9])
@pytest.mark.parametrize("kind", POLICIES)
def test_outputs_and_positions_are_those_of_lists_of_entries(kind, prompt):
    policy = POLICIES[kind]
    if prompt < policy.rule().shortest:
        prompt = 3
    out, kept = run(policy, prompt)
    for row in range(BATCH):
        uniform = None
        if kind == "cam":
            uniform = lambda time, row=row: policy.uniform(  # noqa: E731
                (BATCH, KV_HEADS), jnp.int32(time), jnp.int32(NUMBER)
            )[row]
        expected, tokens = caches.run(
            kind,
            *(np.float64(x[row]) for x in (QUERY, KEY, VALUE)),
            prompt,
            BUDGET,
            uniform,
            **SETTINGS.get(kind, {}),
        )
        assert [positions(state, row) for state in kept] == tokens
        np.testing.assert_allclose(out[row], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("prompt", [0, 7])
@pytest.mark.parametrize("number", [0, 1], ids=["dense layer", "sparse layer"])
@pytest.mark.parametrize("kind", READERS)
def test_what_evicts_nothing_reads_what_lists_of_entries_read(kind, number, prompt):
    def read(head):
        channels = list(CHANNELS[number][head])

        def best(query, keys):
            labels = keys[:, channels] @ query[channels]
            return np.argsort(-labels, kind="stable")[:BUDGET]

        return best if number else lambda query, keys: range(len(keys))

    out, kept = run(READERS[kind], prompt, number)
    for row in range(BATCH):
        expected, tokens = caches.run(
            kind, *(np.float64(x[row]) for x in (QUERY, KEY, VALUE)), prompt, None, read=read
        )
        assert [positions(state, row) for state in kept] == tokens
        np.testing.assert_allclose(out[row], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_snapkv_pools_votes_as_the_twin_does(pool):
    policy = SnapKV(BUDGET, window=2, kernel=5, pool=pool)
    _, kept = run(policy, 12)
    for row in range(BATCH):
        _, tokens = caches.run(
            "snapkv",
            *(np.float64(x[row]) for x in (QUERY, KEY, VALUE)),
            12,
            BUDGET,
            window=2,
            kernel=5,
            pool=pool,
        )
        assert [positions(state, row) for state in kept] == tokens


def test_cam_merges_and_drops_within_this_text():
    """Both happen, so the comparison above is one of both."""
    out, _ = run(POLICIES["cam"], 0)
    other, _ = run(CaM(BUDGET, sinks=2, merged=3, seed=1), 0)
    assert not np.allclose(out, other)
    plain, _ = run(POLICIES["streaming_llm"], 0)
    assert not np.allclose(out, plain) and not np.allclose(other, plain)
