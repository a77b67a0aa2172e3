"""Label channels: which they are, and what they choose."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dst.activations.cache import DoubleSparsity, generate, label_channels, layer
from dst.models.rotary import Rotary
from tests.activations.cache.models import CHANNELS, TEXTS, decoder

# Queries and keys of one head, [1, 1, 1, 1, size] and [1, 1, entries, size].
QUERY = jnp.array([1.0, -2.0, 0.1, 0.5])[None, None, None, None]
KEYS = jnp.array(
    [
        [1.0, 0.0, 2.0, 0.0],
        [0.0, -1.0, 0.0, 1.0],
        [0.5, 0.5, 0.0, 0.0],
        [2.0, -1.0, 0.0, -3.0],
        [0.0, 0.0, 4.0, 1.0],
    ]
)[None, None]
ALIVE = jnp.ones((1, 1, 1, 1, 5), bool)


def test_labels_choose_two_entries_as_worked_out_by_hand():
    policy = DoubleSparsity(2, channels=(((1, 0),),), dense_layers=0)
    labels = policy.labels(QUERY, KEYS, jnp.int32(0))[0, 0, 0, 0]
    np.testing.assert_allclose(labels, [0.707107, 1.414214, -0.353553, 2.828427, 0], atol=1e-6)
    chosen = policy.choose(QUERY, KEYS, ALIVE, jnp.int32(0))[0, 0, 0, 0]
    assert chosen.tolist() == [False, True, False, True, False]
    # Both have the exact score 1.25, so each has half of the attention.
    _, weights = layer.attend(policy.rule(), QUERY, KEYS, KEYS, ALIVE, jnp.int32(0))
    np.testing.assert_allclose(weights[0, 0, 0, 0], [0, 0.5, 0, 0.5, 0], atol=1e-6)


def test_entries_that_are_not_alive_are_not_chosen():
    policy = DoubleSparsity(2, channels=(((1, 0),),), dense_layers=0)
    alive = ALIVE.at[..., 3].set(False)
    chosen = policy.choose(QUERY, KEYS, alive, jnp.int32(0))[0, 0, 0, 0]
    assert chosen.tolist() == [True, True, False, False, False]


def test_dense_layers_read_everything():
    policy = DoubleSparsity(2, channels=(((1, 0),), ((0, 1),), ((2, 3),)), dense_layers=2)
    for number, count in ((0, 5), (1, 5), (2, 2)):
        assert policy.choose(QUERY, KEYS, ALIVE, jnp.int32(number)).sum() == count


def test_labels_of_few_bits_are_rounded_between_the_ends_of_each_vector():
    """Query 1, -2, .5 in two bits: steps of one from -2; key 2, -1, -3: steps of 5/3 from -3."""
    policy = DoubleSparsity(1, channels=(((0, 1, 3),),), bits=2, dense_layers=0)
    labels = policy.labels(QUERY, KEYS, jnp.int32(0))[0, 0, 0, 0]
    query, key = np.array([1.0, -2.0, 0.0]), np.array([2.0, -3 + 5 / 3, -3.0])
    np.testing.assert_allclose(labels[3], query @ key / np.sqrt(3), rtol=1e-6)
    exact = DoubleSparsity(1, channels=(((0, 1, 3),),), bits=16, dense_layers=0)
    plain = DoubleSparsity(1, channels=(((0, 1, 3),),), dense_layers=0)
    fine, labels = (x.labels(QUERY, KEYS, jnp.int32(0)) for x in (exact, plain))
    np.testing.assert_allclose(fine, labels, atol=1e-3)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("by", ["q", "k", "qk"])
def test_channels_are_those_that_numpy_ranks_highest(by, scan):
    model = decoder(scan=scan)
    found = label_channels(model, TEXTS, 2, by=by, batch=2)
    seen = []

    def attend(rotary, query, key, value, kept):
        import jax

        seen.append((query, key))
        mixed = jax.nn.dot_product_attention(rotary(query), rotary(key), value, is_causal=True)
        return mixed, (query, key)

    _, kept = model.hidden(jnp.asarray(TEXTS), attend, None)
    layers = zip(*kept, strict=True) if scan else kept
    for channels, (query, key) in zip(found, layers, strict=True):
        turn = Rotary(4)
        if by == "qk":
            query, key = turn(query), turn(key)
        query, key = np.float64(query), np.repeat(np.float64(key), 2, axis=2)
        size = np.abs({"q": query, "k": key, "qk": query * key}[by]).sum((0, 1))
        assert np.array(channels).tolist() == np.argsort(-size, axis=-1)[:, :2].tolist()
    assert len(set(found)) > 1 and len(set(found[0])) > 1


def test_all_channels_and_all_entries_are_full_attention():
    model = decoder()
    channels = label_channels(model, TEXTS, 4)
    dense = generate(model, TEXTS[0, :5], 10)
    policy = DoubleSparsity(15, channels, dense_layers=0)
    assert generate(model, TEXTS[0, :5], 10, policy).tolist() == dense.tolist()


def test_channels_of_another_model_are_refused():
    model = decoder()
    for channels in (CHANNELS[:1], tuple(x[:2] for x in CHANNELS), (((0, 9),) * 4,) * 2):
        with pytest.raises(ValueError, match="channels must be those of 2 layers with 4 heads of"):
            generate(model, TEXTS[0, :5], 2, DoubleSparsity(3, channels))
    with pytest.raises(ValueError, match="count must be an integer >= 1 and <= 4, got 5"):
        label_channels(model, TEXTS, 5)
    with pytest.raises(ValueError, match="length of windows must be an integer >= 1 and <= 24"):
        label_channels(model, np.tile(TEXTS, (1, 2)), 2)
