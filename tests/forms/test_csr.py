"""Laws of matrices as compressed sparse rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse as scipy_sparse

from dst import forms
from tests.forms.matrices import BATCHES, CASES, DTYPES, bits, check_products, rows, sparse


@pytest.mark.parametrize("dtype", [*DTYPES, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_matrix_comes_back_bit_for_bit(case, dtype):
    weight = sparse(*case, dtype)
    matrix = forms.pack_csr(weight)
    weights, outputs = np.count_nonzero(weight), weight.shape[1]
    assert matrix.shape == weight.shape and matrix.dtype == dtype
    assert matrix.nbytes == weights * (weight.dtype.itemsize + 4) + 4 * (outputs + 1)
    assert matrix.dense().dtype == dtype and bits(matrix.dense()) == bits(weight)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), sparsity=st.floats(0, 1))
def test_arrays_are_those_of_scipy(seed, sparsity):
    weight = sparse(9, 5, sparsity, seed=seed)
    matrix, other = forms.pack_csr(jnp.asarray(weight)), scipy_sparse.csr_array(weight.T)
    np.testing.assert_array_equal(matrix.values, other.data)
    np.testing.assert_array_equal(matrix.indices, other.indices)
    np.testing.assert_array_equal(matrix.pointers, other.indptr)
    assert matrix.indices.dtype == matrix.pointers.dtype == np.int32


@pytest.mark.parametrize("case", CASES)
def test_products_are_those_of_float64(case):
    weight = sparse(*case)
    check_products(forms.pack_csr(weight), weight, *(BATCHES if case == CASES[0] else ()))


def test_products_of_16_bits_are_summed_in_32():
    matrix = forms.pack_csr(jnp.ones((4096, 1), jnp.bfloat16))
    for batch in (1, 3):
        y = matrix(jnp.ones((batch, 4096), jnp.bfloat16))
        assert y.dtype == jnp.bfloat16 and y.tolist() == [[4096.0]] * batch


def test_products_of_64_bits_keep_them():
    weight, x = sparse(40, 24, 0.9, np.float64), rows(3, 40).astype(np.float64)
    np.testing.assert_allclose(forms.pack_csr(weight)(x), x @ weight, rtol=1e-14)


def test_within_jit_the_message_names_the_form_that_works_there():
    matrix = forms.pack_csr(sparse(5, 3, 0.5))
    with pytest.raises(ValueError, match='deploy with form="condensed"'):
        jax.jit(lambda x: x @ matrix)(jnp.ones((2, 5)))


def test_other_weights_and_inputs_are_refused():
    with pytest.raises(ValueError, match="a matrix"):
        forms.pack_csr(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"x must be \[\.\.\., 5\]"):
        forms.pack_csr(sparse(5, 3, 0.5))(np.ones((2, 4), np.float32))


INT = np.int32


@pytest.mark.parametrize(
    ("indices", "pointers", "message"),
    [
        (np.array([0, 3], INT), np.array([0, 1, 2], INT), "below 3"),
        (np.array([0, -1], INT), np.array([0, 1, 2], INT), "at least 0"),
        (np.array([1, 1], INT), np.array([0, 2, 2], INT), "rise within an output"),
        (np.array([0, 1], INT), np.array([0, 1, 3], INT), "rise from 0 to 2"),
        (np.array([0, 1], INT), np.array([0, 3, 2], INT), "rise from 0 to 2"),
        (np.array([0, 1], INT), np.array([1, 1, 2], INT), "rise from 0 to 2"),
        (np.array([0], INT), np.array([0, 1, 2], INT), "last two int32"),
        (np.array([0, 1], np.int64), np.array([0, 1, 2], INT), "last two int32"),
        (np.array([0, 1], INT), np.array([], INT), "last two int32"),
    ],
)
def test_arrays_that_scipy_would_read_beyond_are_refused(indices, pointers, message):
    with pytest.raises(ValueError, match=message):
        forms.CSRMatrix(np.ones(2, np.float32), indices, pointers, 3)


def test_rows_that_end_and_begin_with_falling_indices_are_accepted():
    weight = np.array([[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]], np.float32)
    assert bits(forms.pack_csr(weight).dense()) == bits(weight)
