"""Bytes: those of the arrays, and what a token reads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst.activations.cache import DoubleSparsity, Full, memory, prefill, start
from tests.activations.cache.models import (
    BUDGET,
    CHANNELS,
    CONTEXT,
    LAYERS,
    POLICIES,
    READERS,
    TEXTS,
    decoder,
)

KV_HEADS, SIZE = 2, 4


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kind", [*POLICIES, *READERS])
def test_bytes_are_those_of_the_arrays(kind, scan):
    policy, model = {**POLICIES, **READERS}[kind], decoder(scan=scan)
    found = memory(model, policy, CONTEXT)
    slots = BUDGET + 1 if kind in POLICIES else CONTEXT
    assert found.entries == 2 * LAYERS * KV_HEADS * slots * SIZE * 4
    scored = kind in ("h2o", "snapkv", "cam")
    assert found.bookkeeping == LAYERS * KV_HEADS * slots * 4 * (2 if scored else 1)
    _, cache = prefill(model, jnp.asarray(TEXTS), policy, CONTEXT)
    arrays = jax.tree.leaves(cache.layers)
    total = sum(np.asarray(x).nbytes for x in arrays)
    numbers = LAYERS * 4  # of the layers
    assert total - numbers == len(TEXTS) * (found.entries + found.bookkeeping)
    assert cache.nbytes == total


def test_a_text_within_the_budget_takes_its_own_length():
    short = memory(decoder(), POLICIES["local"], 4)
    assert short.entries == memory(decoder(), Full(), 4).entries


def test_reading_is_counted_by_hand():
    """24 entries of 4 channels in float32; one of two layers is dense."""
    model = decoder()
    dense = memory(model, Full(), CONTEXT)
    assert dense.read == dense.entries == 2 * LAYERS * KV_HEADS * CONTEXT * SIZE * 4
    one_layer = dense.entries // LAYERS
    # Two query heads share a key: 12 entries at most, and 4 labels of the 12 others.
    entries = KV_HEADS * 2 * 12 * SIZE * 4
    found = memory(model, READERS["double_sparsity"], CONTEXT)
    assert found.entries == dense.entries
    assert found.read == one_layer + entries + KV_HEADS * 12 * 4 * 4
    # Rounded labels are stored beside the keys: 2 bits each, of all entries.
    few = memory(model, DoubleSparsity(BUDGET, CHANNELS, bits=2, dense_layers=1), CONTEXT)
    assert few.read == one_layer + entries + KV_HEADS * CONTEXT * 4 * 2 // 8
    most = memory(model, DoubleSparsity(CONTEXT, CHANNELS, dense_layers=0), CONTEXT)
    assert most.read == dense.read


def test_a_cache_has_the_dtype_of_the_keys():
    model = decoder()
    nnx.update(model, jax.tree.map(lambda x: x.astype("bfloat16"), nnx.state(model)))
    cache = start(model, POLICIES["h2o"], 3, CONTEXT)
    assert {x.key.dtype.name for x in cache.layers} == {"bfloat16"}
    half = memory(model, POLICIES["h2o"], CONTEXT)
    assert 2 * half.entries == memory(decoder(), POLICIES["h2o"], CONTEXT).entries
    _, after = prefill(model, jnp.asarray(TEXTS), POLICIES["h2o"], CONTEXT)
    assert jax.tree.map(jnp.shape, after.layers) == jax.tree.map(jnp.shape, cache.layers)
    assert after.layers[0].key.dtype == "bfloat16" and after.layers[0].score.dtype == "float32"
