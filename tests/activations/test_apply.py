"""Laws of sparse activations in a decoder: what changes, what does not, and what is counted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst import activations, models
from dst.activations import (
    CATS,
    CETT,
    CHESS,
    PPL,
    TEAL,
    FATReLU,
    Relufication,
    Threshold,
    TopK,
    apply,
    measure,
    remove,
)
from dst.activations.sites import MATRICES
from tests.activations.decoders import BATCHES, decoder, logits, recorded, scanned

# One of each kind: of inputs, of activations by layer and by channel, and without data.
METHODS = [TEAL(0.5), CATS(0.4), CHESS(0.5), TopK(0.75), CETT(0.3), Relufication(2, 0.1)]
ONE = BATCHES[:1]


def _params(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


@pytest.mark.parametrize("method", METHODS, ids=lambda x: type(x).__name__)
def test_stacked_and_listed_blocks_agree_and_removing_leaves_no_trace(method):
    listed, params = decoder(), _params(decoder())
    stacked = scanned(listed)
    before = [nnx.split(x)[0] for x in (listed, stacked)], logits(listed)
    one, two = apply(listed, method, BATCHES), apply(stacked, method, BATCHES)
    assert one.keys() == two.keys() == set(method.matrices)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=0.01)  # of 96 entries or more
    sparse = logits(listed)
    np.testing.assert_allclose(sparse, logits(stacked), atol=1e-4)
    assert np.abs(sparse - before[1]).max() > 1e-3
    for new, old in zip(_params(listed), params, strict=True):
        np.testing.assert_array_equal(new, old)
    for model in (listed, stacked):
        remove(model)
    assert [nnx.split(x)[0] for x in (listed, stacked)] == before[0]
    np.testing.assert_array_equal(logits(listed), before[1])


@pytest.mark.parametrize("name", ["query", "output", "up", "down"])
def test_measured_zeros_are_those_that_numpy_counts(name):
    model = decoder(activation="relu")
    apply(model, TEAL(0.3), ONE)
    found = measure(model, BATCHES[1:])
    assert found.keys() == set(MATRICES)
    counted = [recorded(model, tokens, name) for tokens in BATCHES[1:]]
    for layer in range(2):
        zeros = np.mean([(batch[layer][0] == 0).mean() for batch in counted])
        np.testing.assert_allclose(found[name][layer], zeros, rtol=1e-6)
    if name == "down":
        percentages = activations.percentages(model, BATCHES[1:])
        np.testing.assert_allclose(percentages, 100 * (1 - found["down"]))


def test_batches_count_by_their_tokens():
    model, (one, two, _) = decoder(activation="relu"), BATCHES
    both = measure(model, [one, two[:1]])["down"]
    parts = [measure(model, [x])["down"] for x in (one, two[:1])]
    np.testing.assert_allclose(both, (4 * parts[0] + parts[1]) / 5, rtol=1e-6)


def test_a_second_method_takes_the_place_of_the_first():
    one, two = decoder(), decoder()
    apply(one, TEAL(0.5), ONE)
    apply(one, CATS(0.5), ONE)
    apply(two, CATS(0.5), ONE)
    assert nnx.split(one)[0] == nnx.split(two)[0]
    np.testing.assert_array_equal(logits(one), logits(two))


def test_thresholds_are_variables_of_their_own_and_never_parameters():
    model = scanned(decoder())
    apply(model, CHESS(0.5), ONE)
    found = {
        "/".join(map(str, p[1:])): x for p, x in nnx.to_flat_state(nnx.state(model, Threshold))
    }
    assert {path: x.get_value().shape for path, x in found.items()} == {
        "feed_forward/activation/threshold": (2, 24),
        "attention/query/threshold": (2,),
        "attention/output/threshold": (2,),
    }
    assert len(_params(model)) == len(_params(decoder(scan=True)))


@pytest.mark.parametrize("method", [TEAL(0.0), CATS(0.0), CHESS(0.0), TopK(0.0), CETT(0.0)])
def test_no_sparsity_changes_nothing(method):
    model = decoder(layers=1)
    before = logits(model)
    zeros = apply(model, method, ONE)
    np.testing.assert_array_equal(logits(model), before)
    assert all((x == 0).all() for x in zeros.values())


def test_what_blocks_share_stays_shared():
    model = decoder()
    model.blocks[1].feed_forward = model.blocks[0].feed_forward
    before = nnx.split(model)[0]
    found = apply(model, CATS(0.5), ONE)["down"]
    assert found[0] == found[1] == pytest.approx(0.5, abs=0.05)
    assert model.blocks[0].feed_forward.activation is model.blocks[1].feed_forward.activation
    assert model.blocks[0].feed_forward.activation.former is nnx.silu
    remove(model)
    assert nnx.split(model)[0] == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_keep_the_type_of_what_they_compute(dtype):
    model = scanned(decoder())
    nnx.update(model, jax.tree.map(lambda x: x.astype(dtype), nnx.state(model)))
    expected = logits(model).dtype
    for method in (CHESS(0.5), CETT(0.1)):
        zeros = apply(model, method, ONE)["down"]
        assert (zeros > 0.3).all() and logits(model).dtype == expected


def test_gradients_pass_where_activations_do():
    model = decoder(layers=1, activation="relu")
    apply(model, TopK(0.75))
    graph, state = nnx.split(model)

    def loss(state):
        return jnp.square(nnx.merge(graph, state)(jnp.asarray(ONE[0]))).mean()

    kernel = jax.grad(loss)(state)["blocks"][0]["feed_forward"]["down"]["kernel"].get_value()
    entered = recorded(model, ONE[0], "down")[0][0]
    np.testing.assert_array_equal(
        np.abs(kernel).max(axis=1) > 0, (entered != 0).any(axis=(0, 1)), strict=True
    )


class Bad:
    """A method that fails when it looks at data."""

    matrices = ("down",)

    def replacements(self, data):
        raise ValueError("no")


def _broken():
    model = decoder()
    kernel = model.blocks[1].feed_forward.gate.kernel
    kernel.set_value(kernel.get_value() * jnp.nan)
    return model


def _equal():
    model = decoder()
    embedding = model.embedding.embedding
    embedding.set_value(jnp.sign(embedding.get_value()))
    return model


@pytest.mark.parametrize(
    ("model", "method", "batches", "words"),
    [
        (decoder, CATS(0.5), (), "this method looks at data: batches must hold"),
        (_broken, CATS(0.5), ONE, "those at activation of layer 1 are not. Does the model"),
        (
            lambda: decoder(activation="relu"),
            CATS(0.2),
            ONE,
            r"sparsity 0.2 is there without a method: .* at least [45]\d\.\d% of the values at act",
        ),
        (
            _equal,
            TEAL(0.25),
            ONE,
            "cannot be met at query of layer 0: 100.0% of the values are at most 1, as many are eq",
        ),
        (decoder, Bad(), ONE, "no"),
        (decoder, TopK(0.5), [np.zeros((1, 9), int)], "at most 8 tokens long, got 9"),
    ],
    ids=[
        "no data",
        "not finite",
        "already there",
        "too many equal",
        "the method fails",
        "too long",
    ],
)
def test_an_error_leaves_the_model_as_it_was(model, method, batches, words):
    model = model()
    apply(model, FATReLU(0.1))
    before = nnx.split(model)
    with pytest.raises(ValueError, match=words):
        apply(model, method, batches)
    after = nnx.split(model)
    assert after[0] == before[0]
    for new, old in zip(*map(jax.tree.leaves, (after[1], before[1])), strict=True):
        np.testing.assert_array_equal(new, old)


def test_another_model_is_refused():
    encoder = models.Encoder(8, 11, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
    changed = decoder()
    changed.blocks[1].feed_forward = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="need a dst.models.Decoder .* got Encoder"):
        apply(encoder, CATS(0.5), ONE)
    with pytest.raises(ValueError, match="SwiGLU, got blocks with Linear"):
        measure(changed, ONE)
    with pytest.raises(ValueError, match="SwiGLU, got blocks with Linear"):
        activations.with_l1(changed, jnp.asarray(ONE[0]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *[(lambda m=m: m(1.0), f"sparsity of {m.__name__} .* 1.0") for m in (TEAL, CATS, TopK)],
        (lambda: CHESS(-0.1), r"sparsity of CHESS must be a number in \[0, 1\), got -0.1"),
        (lambda: CATS(50), "Did you mean 0.5"),
        (lambda: TEAL(0.5, passes=0), "passes of TEAL must be an integer >= 1, got 0"),
        (lambda: CETT(1.0), "error of CETT must be"),
        (lambda: PPL(0), "percent of PPL must be a finite number > 0"),
        (lambda: PPL(1, tolerance=0), "tolerance of PPL must be"),
        (lambda: FATReLU(0), "threshold of FATReLU must be a finite number > 0"),
        (lambda: Relufication(3), "stage of Relufication must be an integer"),
        (lambda: Relufication(shift=-1), "shift of Relufication must be"),
    ],
)
def test_numbers_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("method", [CATS(0.5), TEAL(0.5)], ids=lambda x: type(x).__name__)
def test_a_model_with_thresholds_is_not_saved_without_them(method, tmp_path):
    model = decoder()
    apply(model, method, ONE)
    with pytest.raises(ValueError, match="dst.activations.remove"):
        models.save(tmp_path / "out", model)
    remove(model)
    models.save(tmp_path / "out", model)
    np.testing.assert_array_equal(logits(models.load(tmp_path / "out")), logits(model))


def test_a_relufied_model_is_saved_as_one_once_its_blocks_have_a_relu(tmp_path):
    model = decoder()
    apply(model, Relufication())
    expected = logits(model)
    remove(model)
    for block in model.blocks:
        block.feed_forward.activation = nnx.relu
    models.save(tmp_path / "out", model)
    np.testing.assert_array_equal(logits(models.load(tmp_path / "out")), expected)
