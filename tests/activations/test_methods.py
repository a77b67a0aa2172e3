"""Laws of the methods: which entries become zero, by tables worked out by hand and by NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst.activations import CATS, CHESS, TEAL, Calibration, Relufication, Threshold, TopK, apply
from dst.activations.calibration import Call
from dst.activations.chess import channel_thresholds, importance, squares
from dst.activations.quantiles import kth_smallest
from dst.activations.threshold import zero_small
from dst.activations.top_k import TopKActivation, top_k
from tests.activations.decoders import BATCHES, decoder, logits, recorded

# Activations and what is multiplied with them, [tokens, channels].
A = jnp.array([[0.5, -0.1, 0.2, 0.05], [-0.3, 0.4, 0.1, 0.6], [0.2, -0.2, 0.3, -0.1]])
U = jnp.array([[1.0, 2.0, 0.5, 1.0], [0.0, 1.0, 0.5, 2.0], [2.0, 1.0, 1.0, 0.0]])


def test_cats_and_chess_keep_what_the_table_says():
    threshold = kth_smallest(jnp.abs(A), 0.5)
    assert float(threshold) == np.float32(0.2)
    cats = [[1, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]]
    np.testing.assert_array_equal(zero_small(A, threshold), A * np.array(cats))

    mean = squares(Call(None, U, U, None))
    np.testing.assert_allclose(mean, [5 / 3, 2, 0.5, 5 / 3], rtol=1e-6)
    scores = importance(Call(None, A, A, mean))
    tau = kth_smallest(scores, 0.5)
    np.testing.assert_allclose(tau, 0.045, rtol=1e-6)
    channels = channel_thresholds(np.array([tau], np.float64), np.array([mean], np.float64))[0]
    np.testing.assert_allclose(channels, [0.164317, 0.15, 0.3, 0.164317], rtol=1e-5)
    # The entry with the importance tau, 0.3 in channel 2, becomes zero; half an ulp decides here.
    chess = np.array([[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 0]])
    kept = zero_small(A, np.nextafter(np.float32(channels), np.float32(1)))
    np.testing.assert_array_equal(kept, A * chess)


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.25, 0.5, 0.9, 0.999])
def test_the_kth_smallest_value_is_that_of_a_sort(sparsity):
    values = np.abs(np.random.default_rng(0).normal(size=(7, 11, 13))).astype(np.float32)
    values[values < 0.1] = 0.1  # ties
    k = int(sparsity * values.size + 1e-9)
    expected = np.sort(values, axis=None)[k - 1] if k else 0
    assert float(kth_smallest(jnp.asarray(values), sparsity)) == expected
    half = jnp.asarray(values).astype(jnp.bfloat16)
    found = float(kth_smallest(half, sparsity))
    assert found == (np.sort(np.asarray(half, np.float32), axis=None)[k - 1] if k else 0)


def _thresholds(model, *path):
    found = nnx.to_pure_dict(nnx.state(model, Threshold))["blocks"]
    for name in path:
        found = {layer: x[name] for layer, x in found.items()}
    return [np.asarray(found[layer]["threshold"]) for layer in sorted(found)]


def test_teal_has_the_quantiles_of_what_enters_each_matrix():
    model = decoder()
    dense = {x: [recorded(model, b, x) for b in BATCHES] for x in ("value", "output", "up", "down")}
    apply(model, TEAL(0.3, passes=1), BATCHES)
    for name, batches in dense.items():
        part = "attention" if name in ("value", "output") else "feed_forward"
        for layer, found in enumerate(_thresholds(model, part, name)):
            values = [np.sort(np.abs(x[layer][0]), axis=None) for x in batches]
            expected = np.mean([x[int(0.3 * x.size) - 1] for x in values])
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_second_pass_of_teal_meets_the_target_behind_the_zeros_of_the_first():
    model = decoder(layers=3)
    errors = []
    for passes in (1, 3):
        zeros = apply(model, TEAL(0.6, passes=passes), BATCHES[:1])
        errors.append(np.mean([np.abs(x - 0.6) for x in zeros.values()]))
    assert errors[1] < 0.7 * errors[0] and errors[1] < 0.015


def test_cats_meets_its_target_exactly_in_the_first_layer_of_one_batch():
    model = decoder()
    zeros = apply(model, CATS(0.3), BATCHES[:1])["down"]
    size = 4 * 8 * 24
    assert zeros[0] == pytest.approx(int(0.3 * size) / size)
    assert zeros[1] == pytest.approx(0.3, abs=0.03)  # behind other activations


def test_chess_leaves_out_channels_that_nothing_multiplies():
    model = decoder(layers=1)
    up = model.blocks[0].feed_forward.up.kernel
    up.set_value(up.get_value().at[:, 5].set(0))
    apply(model, CHESS(0.5), BATCHES[:1])
    (threshold,) = _thresholds(model, "feed_forward", "activation")
    assert threshold.shape == (24,) and np.flatnonzero(np.isinf(threshold)).tolist() == [5]
    assert (recorded(model, BATCHES[0], "down")[0][0][..., 5] == 0).all()


def test_chess_thresholds_follow_from_the_model():
    model = decoder(layers=1)
    ((x, u),) = recorded(model, BATCHES[0], "up")
    gate = x @ np.asarray(model.blocks[0].feed_forward.gate.kernel.get_value(), np.float64)
    a = gate / (1 + np.exp(-gate))
    mean = (u**2).mean(axis=(0, 1))
    scores = np.sort(a**2 * mean, axis=None)
    expected = np.sqrt(scores[scores.size // 2 - 1] / mean)
    ((query, _),), ((output, _),) = (recorded(model, BATCHES[0], n) for n in ("query", "output"))
    apply(model, CHESS(0.5), BATCHES[:1])
    np.testing.assert_allclose(_thresholds(model, "feed_forward", "activation")[0], expected, 1e-4)
    for name, values in (("query", query), ("output", output)):
        ordered = np.sort(np.abs(values), axis=None)
        found = _thresholds(model, "attention", name)[0]
        np.testing.assert_allclose(found, ordered[ordered.size // 2 - 1], rtol=1e-5)


def test_top_k_keeps_what_the_table_says():
    relu = jnp.maximum(jnp.array([[0.3, -1.0, 2.0, 0.1], [0.0, 0.5, 0.4, -0.2]]), 0)
    assert 100 * float((relu != 0).mean()) == 62.5
    one, two = [[0, 0, 2.0, 0], [0, 0.5, 0, 0]], [[0.3, 0, 2.0, 0], [0, 0.5, 0.4, 0]]
    np.testing.assert_array_equal(top_k(relu, 1), np.float32(one))
    np.testing.assert_array_equal(top_k(relu, 2), np.float32(two))
    np.testing.assert_array_equal(TopKActivation(nnx.relu, 0.5)(relu), np.float32(two))
    assert int((top_k(relu, 4) != 0).sum()) == 5  # rows with fewer keep fewer
    signed = jnp.array([[-3.0, 1.0, 2.0, -2.0]])
    np.testing.assert_array_equal(top_k(signed, 2), [[-3.0, 0, 2.0, 0]])  # ties: the first


def test_top_k_looks_at_each_token_by_itself():
    model = decoder()
    apply(model, TopK(0.75), ())
    for entered, _ in recorded(model, BATCHES[0], "down"):
        assert ((entered != 0).sum(axis=-1) == 6).all()


@pytest.mark.parametrize(("stage", "shift"), [(1, 0.0), (1, 0.2), (2, 0.0)])
def test_relufied_models_compute_what_numpy_says(stage, shift):
    model = decoder(layers=1)
    apply(model, Relufication(stage, shift))
    ((x, gate),) = recorded(model, BATCHES[0], "gate")
    ((_, up),), ((down, _),) = (recorded(model, BATCHES[0], n) for n in ("up", "down"))
    assert (x.min() >= 0) == (stage == 2)
    np.testing.assert_allclose(down, np.maximum(gate - shift, 0) * up, rtol=1e-4, atol=1e-6)
    if (stage, shift) == (1, 0.0):
        relu = decoder(layers=1, activation="relu")
        np.testing.assert_array_equal(logits(model), logits(relu))


def test_a_method_of_ones_own_is_a_dataclass_with_replacements():
    data = Calibration(decoder(), BATCHES)
    assert data.layers == 2 and data.outputs("up") == 24 and 1 < data.loss() < 4
    widths = data.by_layer("down", lambda layer: jnp.asarray(layer.kernel.get_value().shape))
    assert widths.tolist() == [[24, 16], [24, 16]]
