"""Laws of pruning one layer at a time, and of the allocation that follows from it."""

from __future__ import annotations

import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dst
from dst.inspect.sensitivity import Sensitivity
from dst.rules.allocation import Layer
from tests.runs import X, Y, compilations, error, forward, initial_params

SPARSITIES = [0.9, 0.0, 0.3, 0.5]
PARAMS = initial_params()


def loss(params, batch):
    """Of the tiny network, on given inputs."""
    return error(forward(params, batch))


@pytest.fixture(scope="module")
def measured():
    """Two layers at four sparsities, and the number of programs that it took."""
    with compilations() as compiled:
        curves = dst.sensitivity(loss, PARAMS, X, SPARSITIES, at_once=3)
    return curves, compiled.count


def test_losses_are_those_of_pruning_one_by_one(measured):
    """Against NumPy: sort, cut, forward, in double precision."""
    curves, _ = measured
    weights = {k: {n: np.asarray(x, float) for n, x in v.items()} for k, v in PARAMS.items()}

    def plain(parts):
        hidden = np.tanh(X @ parts["hidden"]["kernel"] + parts["hidden"]["bias"])
        return np.mean((hidden @ parts["out"]["kernel"] + parts["out"]["bias"] - Y) ** 2)

    assert curves.paths == ("hidden/kernel", "out/kernel") and curves.sizes == (128, 64)
    assert curves.sparsities == (0.0, 0.3, 0.5, 0.9)
    assert curves.baseline == pytest.approx(plain(weights), rel=1e-5)
    for path, losses in zip(curves.paths, curves.losses, strict=True):
        layer = path.split("/")[0]
        kernel = weights[layer]["kernel"]
        order = np.argsort(np.abs(kernel), axis=None)
        for sparsity, value in zip(curves.sparsities, losses, strict=True):
            pruned = kernel.copy().reshape(-1)
            pruned[order[: math.floor(round(sparsity * kernel.size, 6))]] = 0
            parts = weights | {layer: weights[layer] | {"kernel": pruned.reshape(kernel.shape)}}
            assert value == pytest.approx(plain(parts), rel=1e-5), (path, sparsity)
    assert curves.increase("out/kernel")[0] == pytest.approx(0, abs=1e-6)


def test_all_pairs_run_in_one_program(measured):
    assert measured[1] == 1


def test_slices_of_a_stacked_leaf_are_pruned_one_by_one():
    weights = jnp.asarray([[[1.0, 2.0]], [[30.0, 40.0]]])
    curves = dst.sensitivity(
        lambda p, x: jnp.sum(p["w"]), {"w": weights}, None, [0.5], stacked={"w": 1}
    )
    assert curves.losses == ((42.0,),)


def test_the_table_shows_increases(measured):
    text = str(measured[0])
    assert "out/kernel" in text and "0.9" in text and f"{measured[0].baseline:.4f}" in text


def test_an_allocation_from_sensitivities_trains_the_less_sensitive_layer_sparser(measured):
    """One layer minds far more than the other; the global count is exact."""
    tilted = Sensitivity(
        ("hidden/kernel", "out/kernel"), (128, 64), (0.5, 0.9), 1.0, ((1.01, 1.02), (1.5, 3.0))
    )
    method = dst.Static(sparsity=0.6, allocation=tilted.allocation())
    state = dst.sparsify(optax.sgd(0.1), method).init(PARAMS)
    zeros = {p: int((~m).sum()) for p, m in dst.masks(state).items()}
    assert sum(zeros.values()) == math.floor(0.6 * 192)
    assert zeros["hidden/kernel"] / 128 > 0.8 > 0.1 > zeros["out/kernel"] / 64
    # By hand: hidden at its highest, 0.9 * 128 = 115.2 zeros, needs an increase of 0.02 only, at
    # which the other, 0.5 * 64 zeros for 0.5, may lose 1.28. 115 are wanted.
    assert zeros == {"hidden/kernel": 114, "out/kernel": 1}


@given(data=st.data())
def test_the_global_count_is_exact_and_no_layer_exceeds_what_was_measured(data):
    n = data.draw(st.integers(1, 5))
    sizes = [data.draw(st.integers(1, 400)) for _ in range(n)]
    values = (0.25, 0.5, 0.8)
    rows = [tuple(data.draw(st.floats(-1, 3, allow_nan=False)) for _ in values) for _ in range(n)]
    paths = tuple(f"layer{i}" for i in range(n))
    curves = Sensitivity(paths, tuple(sizes), values, 1.0, tuple(rows))
    layers = {p: Layer((size, 1)) for p, size in zip(paths, sizes, strict=True)}
    sparsity = data.draw(st.sampled_from([0.0, 0.1, 0.37, 0.6, 0.75]))
    shares = curves.allocation()(layers, sparsity).sparsity
    zeros = [math.floor(shares[p] * size) for p, size in zip(paths, sizes, strict=True)]
    assert sum(zeros) == math.floor(Fraction(str(sparsity)) * sum(sizes))
    for count, size in zip(zeros, sizes, strict=True):
        assert 0 <= count <= 0.8 * size + 1


def test_layers_share_one_increase_of_the_loss():
    """Straight curves of slopes 1 and 3, equal sizes: sparsities of 3 to 1."""
    curves = Sensitivity(("a", "b"), (1000, 1000), (0.9,), 0.0, ((0.9,), (2.7,)))
    layers = {"a": Layer((1000, 1)), "b": Layer((1000, 1))}
    shares = curves.allocation()(layers, 0.4).sparsity
    assert shares == {"a": Fraction(6, 10), "b": Fraction(2, 10)}


def test_layers_with_a_sparsity_of_their_own_keep_it():
    curves = Sensitivity(("a", "b"), (100, 100), (0.9,), 0.0, ((0.9,), (0.9,)))
    layers = {"a": Layer((100, 1)), "b": Layer((100, 1), sparsity=0.3)}
    assert curves.allocation()(layers, 0.5).sparsity == {"a": Fraction(1, 2), "b": Fraction(3, 10)}


def test_what_was_not_measured_is_refused():
    curves = Sensitivity(("a",), (100,), (0.5,), 0.0, ((0.9,),))
    with pytest.raises(ValueError, match="expected 80. Measure higher"):
        curves.allocation()({"a": Layer((100, 1))}, 0.8)
    with pytest.raises(ValueError, match=r"sensitivity of \['b'\] was not measured"):
        curves.allocation()({"b": Layer((100, 1))}, 0.3)
    with pytest.raises(ValueError, match="Did you mean 'a'?"):
        curves.increase("aa")
    with pytest.raises(ValueError, match="leaves to prune"):
        dst.sensitivity(loss, {"b": jnp.ones(3)}, X, [0.5])
    with pytest.raises(ValueError, match="sparsities must be a number in"):
        dst.sensitivity(loss, PARAMS, X, [1.0])
