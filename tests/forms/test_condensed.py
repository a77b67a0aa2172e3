"""Laws of fan-in condensed matrices."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dst import forms
from dst.forms.condensed import condensed_of
from tests.forms.matrices import BATCHES, CASES, DTYPES, bits, check_products, rows, sparse

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_a_matrix_comes_back_bit_for_bit(case, dtype):
    weight = sparse(*case, dtype)
    matrix = forms.pack_condensed(jnp.asarray(weight))
    fan_in = int((weight != 0).sum(axis=0).max(initial=0))
    assert matrix.values.shape == matrix.indices.shape == (fan_in, weight.shape[1])
    assert matrix.shape == weight.shape and matrix.dtype == dtype
    assert matrix.indices.dtype == jnp.int32
    assert matrix.nbytes == fan_in * weight.shape[1] * (weight.dtype.itemsize + 4)
    assert matrix.dense().dtype == dtype and bits(matrix.dense()) == bits(weight)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), sparsity=st.floats(0, 1))
def test_slots_are_those_of_a_loop(seed, sparsity):
    weight = sparse(9, 5, sparsity, seed=seed)
    matrix = forms.pack_condensed(weight)
    values, indices = np.asarray(matrix.values), np.asarray(matrix.indices)
    for o in range(5):
        inputs = [i for i in range(9) if weight[i, o]]
        spare = [0] * (len(values) - len(inputs))
        assert indices[:, o].tolist() == [*inputs, *spare]
        assert values[:, o].tolist() == [*weight[inputs, o].tolist(), *spare]
    assert bits(matrix.dense()) == bits(weight)


@pytest.mark.parametrize("case", CASES)
def test_products_are_those_of_float64(case):
    weight = sparse(*case)
    check_products(forms.pack_condensed(weight), weight, *(BATCHES if case == CASES[0] else ()))


def test_products_of_16_bits_are_summed_in_32():
    weight = np.full((4096, 2), 1.0)
    weight[:, 1] = 0
    matrix = forms.pack_condensed(jnp.asarray(weight, jnp.bfloat16))
    for batch in (1, 3):
        y = matrix(jnp.ones((batch, 4096), jnp.bfloat16))
        assert y.dtype == jnp.bfloat16 and y.tolist() == [[4096.0, 0.0]] * batch


@pytest.mark.parametrize("batch", [1, 6])
def test_derivatives_are_those_of_the_dense_product(batch):
    weight, x = sparse(32, 12, 0.8), rows(batch, 32)
    matrix = forms.pack_condensed(weight)

    def condensed(values, x):
        return (replace(matrix, values=values)(x) ** 2).sum()

    def dense(weight, x):
        return ((x @ weight) ** 2).sum()

    values, of_x = jax.grad(condensed, (0, 1))(matrix.values, x)
    of_weight, of_x_dense = jax.grad(dense, (0, 1))(jnp.asarray(weight), x)
    np.testing.assert_allclose(of_x, of_x_dense, rtol=1e-5, atol=1e-5)
    expected = np.take_along_axis(np.asarray(of_weight), np.asarray(matrix.indices), 0)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_jit_takes_the_matrix_as_an_argument():
    weight, x = sparse(32, 12, 0.8), rows(4, 32)
    matrix = forms.pack_condensed(weight)
    y = jax.jit(lambda matrix, x: x @ matrix)(matrix, x)
    np.testing.assert_allclose(y, matrix(x), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(matrix)(x), y, rtol=1e-6)


def test_zeros_of_either_sign_are_no_weights():
    matrix = forms.pack_condensed(np.array([[-0.0, 1.0]], np.float32))
    assert matrix.values.tolist() == [[0.0, 1.0]]
    assert bits(matrix.dense()) == bits(np.array([[0.0, 1.0]], np.float32))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(3, np.float32), r"a matrix \[inputs, outputs\], got shape \(3,\)"),
        (np.zeros((2, 2, 2), np.float32), r"got shape \(2, 2, 2\)"),
        (np.zeros((2, 2), np.int32), "floating-point array, got int32"),
        ([[0.0, 1.0]], "floating-point array, got None"),
        (np.zeros((2, 2)), "would turn float64 into float32"),
    ],
)
def test_other_weights_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        forms.pack_condensed(weight)


@pytest.mark.parametrize("shape", [(), (4,), (3, 4)])
def test_inputs_of_another_length_are_refused(shape):
    matrix = forms.pack_condensed(sparse(5, 3, 0.5))
    with pytest.raises(ValueError, match=r"x must be \[\.\.\., 5\], got shape"):
        matrix(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, 1], [2, 3]], "below 3"),
        ([[0, -1], [2, 2]], "at least 0"),
        ([[1, 1], [1, 2]], "must rise"),
        ([[0, 1]], "one shape"),
        ([[0.0, 1.0], [2.0, 2.0]], "float64"),
    ],
)
def test_indices_that_are_none_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        condensed_of(np.ones((2, 2), np.float32), np.array(indices), 3)
