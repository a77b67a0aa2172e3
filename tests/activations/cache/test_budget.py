"""The budget is exact, after every step, whatever the policy, the layer and the head."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dst.activations.cache import Eviction, Full, decode, perplexity, prefill, start
from tests.activations.cache.models import BUDGET, CONTEXT, POLICIES, READERS, TEXTS, decoder

LENGTH = TEXTS.shape[1]


@pytest.fixture(scope="module")
def models():
    return {scan: decoder(scan=scan) for scan in (False, True)}


def entries(cache):
    """Positions ``[layers, batch, kv_heads, slots]``."""
    layers = cache.layers
    return np.asarray(
        jnp.stack([x.position for x in layers]) if isinstance(layers, list) else layers.position
    )


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kind", [*POLICIES, *READERS])
def test_every_head_has_as_many_entries_as_the_budget_allows(kind, scan, models):
    policy, model = {**POLICIES, **READERS}[kind], models[scan]
    budget = BUDGET if kind in POLICIES else LENGTH
    prompt = 8 if kind != "h2o" else 4  # longer and shorter than the budget
    _, cache = prefill(model, jnp.asarray(TEXTS[:, :prompt]), policy, LENGTH)
    for read in range(prompt, LENGTH + 1):
        position = entries(cache)
        alive = position >= 0
        assert int(cache.time) == read and position.max() == read - 1
        np.testing.assert_array_equal(alive.sum(-1), min(read, budget))
        for row in position.reshape(-1, position.shape[-1]):
            tokens = row[row >= 0]
            assert len(set(tokens)) == len(tokens)  # no token twice
        if read < LENGTH:
            _, cache = decode(model, jnp.asarray(TEXTS[:, read]), cache)


@dataclass(frozen=True)
class Constant:
    """A policy to which all entries are the same."""

    budget: int
    value: float

    def rule(self):
        return Eviction(self.budget, lambda scores, *_: jnp.full_like(scores, self.value))


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan])
def test_the_budget_is_exact_whatever_a_policy_returns(value, models):
    texts, policy = jnp.asarray(TEXTS), Constant(BUDGET, value)
    for prompt in (3, 8):
        _, cache = prefill(models[False], texts[:, :prompt], policy, LENGTH)
        for read in range(prompt, LENGTH):
            _, cache = decode(models[False], texts[:, read], cache)
            alive = (entries(cache) >= 0).sum(-1)
            np.testing.assert_array_equal(alive, min(read + 1, BUDGET))
        # Of equals the earliest stay.
        np.testing.assert_array_equal(
            np.sort(entries(cache))[..., 1:],
            np.broadcast_to(np.arange(BUDGET), (*alive.shape, BUDGET)),
        )


@pytest.mark.parametrize("kind", POLICIES)
def test_what_is_evicted_never_returns(kind, models):
    policy, before = POLICIES[kind], None
    _, cache = prefill(models[False], jnp.asarray(TEXTS[:, :8]), policy, LENGTH)
    for read in range(8, LENGTH):
        now = [{*map(int, x)} for x in entries(cache).reshape(-1, BUDGET + 1)]
        if before is not None:
            assert all(b <= a | {read - 1, -1} for a, b in zip(before, now, strict=True))
        before = now
        _, cache = decode(models[False], jnp.asarray(TEXTS[:, read]), cache)


@pytest.mark.parametrize("kind", [*POLICIES, "double_sparsity"])
def test_a_budget_of_the_whole_text_changes_nothing(kind, models):
    policy = {**POLICIES, **READERS}[kind]
    large = type(policy)(**{**vars(policy), "budget": LENGTH})
    prompt = policy.rule().shortest
    expected = perplexity(models[False], TEXTS, Full(), prompt=prompt)
    found = perplexity(models[False], TEXTS, large, prompt=prompt)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    small = perplexity(models[False], TEXTS, policy, prompt=prompt)
    assert abs(small / expected - 1) > 1e-3  # six entries do


def test_a_cache_takes_no_more_tokens_than_it_is_for(models):
    cache = start(models[False], Full(), 1, 2)
    for token in (3, 1):
        _, cache = decode(models[False], jnp.array([token]), cache)
    with pytest.raises(ValueError, match="for 2 tokens, which have been read"):
        decode(models[False], jnp.array([1]), cache)


@pytest.mark.parametrize("kind", [*POLICIES, *READERS])
def test_texts_of_a_batch_do_not_see_each_other(kind, models):
    if kind == "cam":
        pytest.skip("it draws for the whole batch")
    policy = {**POLICIES, **READERS}[kind]
    prompt = policy.rule().shortest

    def logits(texts):
        cache = start(models[True], policy, len(texts), LENGTH)
        if prompt:
            _, cache = prefill(models[True], jnp.asarray(texts[:, :prompt]), policy, LENGTH)
        for t in range(prompt, LENGTH):
            found, cache = decode(models[True], jnp.asarray(texts[:, t]), cache)
        return np.asarray(found)

    together = logits(TEXTS)
    alone = np.concatenate([logits(TEXTS[i : i + 1]) for i in range(len(TEXTS))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_a_cache_is_a_pytree_of_fixed_size(models):
    _, cache = prefill(models[False], jnp.asarray(TEXTS[:, :8]), POLICIES["h2o"], CONTEXT)
    shapes = jax.tree.map(jnp.shape, cache)
    _, after = decode(models[False], jnp.asarray(TEXTS[:, 8]), cache)
    assert jax.tree.map(jnp.shape, after) == shapes
