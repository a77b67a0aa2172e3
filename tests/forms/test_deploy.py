"""Laws of deployed matrices and trees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dst
from dst import forms
from dst.forms.nm import nm_of
from tests.forms.matrices import bits, check_products, rows, sparse

FORMS = {
    "condensed": forms.CondensedMatrix,
    "csr": forms.CSRMatrix,
    "dense": forms.DenseMatrix,
    "2:4": forms.NMMatrix,
}


def pattern(inputs=40, outputs=24, n=2, m=4, dtype=np.float32):
    weight = sparse(inputs, outputs, 0, dtype)
    return np.where(np.arange(inputs)[:, None] % m < n, weight, np.zeros_like(weight))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_every_bit_and_multiplies(form, dtype):
    weight = pattern(dtype=dtype)
    matrix = dst.deploy(weight, form)
    assert type(matrix) is FORMS[form]
    assert matrix.shape == weight.shape and matrix.dtype == dtype
    assert bits(matrix.dense()) == bits(weight)
    arrays = [x for x in jax.tree.leaves(vars(matrix)) if hasattr(x, "nbytes")]
    assert matrix.nbytes == sum(x.nbytes for x in arrays)
    assert f"{matrix.nbytes} bytes" in repr(matrix)
    if dtype == jnp.float32:
        check_products(matrix, weight)
        x = jnp.asarray(rows(2, 40))
        np.testing.assert_array_equal(x @ matrix, matrix(x))


@pytest.mark.parametrize(("n", "m"), [(1, 2), (3, 8)])
def test_products_of_patterns_are_those_of_float64(n, m):
    weight = pattern(48, 5, n, m)
    check_products(dst.deploy(weight, f"{n}:{m}"), weight)


def test_auto_is_condensed_where_slots_are_few():
    weight = np.zeros((100, 4), np.float32)
    weight[:20] = 1
    assert isinstance(dst.deploy(weight), forms.CondensedMatrix)
    assert isinstance(dst.deploy(weight, min_sparsity=0.9), forms.DenseMatrix)
    weight[20, 0] = 1  # one output has more weights: so many slots are needed for all
    assert isinstance(dst.deploy(weight), forms.DenseMatrix)
    assert isinstance(dst.deploy(weight, min_sparsity=0.5), forms.CondensedMatrix)


def tree():
    return {
        "layers": [{"kernel": sparse(40, 24, 0.95), "bias": np.ones(24, np.float32)}],
        "out": ({"kernel": sparse(24, 8, 0.3)}, None),
        "embedding": sparse(50, 40, 0.99),
        "stack": np.zeros((2, 8, 8), np.float32),
        "step": np.int32(3),
    }


def forward(params, x):
    layer = params["layers"][0]
    return jnp.tanh(x @ layer["kernel"] + layer["bias"][None]) @ params["out"][0]["kernel"]


@pytest.mark.parametrize(("form", "kind"), list(FORMS.items())[:2])
def test_a_forward_function_takes_a_deployed_tree_unchanged(form, kind):
    params, x = tree(), rows(3, 40)
    deployed = dst.deploy(params, form)
    assert type(deployed["layers"][0]["kernel"]) is kind
    for path in ("embedding", "stack", "step"):
        assert deployed[path] is params[path]
    assert deployed["out"][0]["kernel"] is params["out"][0]["kernel"]
    y = forward(deployed, x)
    np.testing.assert_allclose(y, forward(params, x), rtol=1e-5, atol=1e-6)
    if form == "condensed":
        np.testing.assert_allclose(jax.jit(forward)(deployed, x), y, rtol=1e-5, atol=1e-6)


def test_a_pattern_is_found_leaf_by_leaf():
    params = {"a": pattern(), "b": sparse(40, 24, 0.3), "c": sparse(6, 4, 1.0)}
    deployed = dst.deploy(params, "2:4")
    assert isinstance(deployed["a"], forms.NMMatrix)
    assert deployed["b"] is params["b"] and deployed["c"] is params["c"]
    assert dst.deploy(params, "2:4", min_sparsity=0.9)["a"] is params["a"]


def test_leaves_can_be_selected():
    params = {"a": sparse(40, 24, 0.95), "b": sparse(40, 24, 0.95)}
    deployed = dst.deploy(params, select=["!a"])
    assert deployed["a"] is params["a"] and isinstance(deployed["b"], forms.CondensedMatrix)
    assert dst.deploy(params, "dense")["b"] is params["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "condensd"}, "Did you mean 'condensed'"),
        ({"form": "coo"}, "form must be one of"),
        ({"form": None}, "form must be one of"),
        ({"form": "2:7"}, "inputs that 7 divides"),
        ({"form": "1:40"}, "must be 1:40"),
        ({"form": "4:2"}, "m must be an integer >= 5"),
        ({"min_sparsity": 95}, "Did you mean 0.95"),
    ],
)
def test_other_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dst.deploy(sparse(40, 24, 0.9), **arguments)


def test_a_flax_model_is_refused_by_name():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    for params in (model, nnx.state(model)):
        with pytest.raises(ValueError, match="nnx.to_pure_dict"):
            dst.deploy(params)
    pure = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert dst.deploy(pure).keys() == pure.keys()


@pytest.mark.parametrize(
    ("rows_", "indices", "message"),
    [
        (3, [[0], [1], [2]], "2 \\* groups"),
        (2, [[0], [4]], "below 4"),
        (2, [[1], [1]], "rise within a group"),
        (2, [[0]], "2 \\* groups"),
    ],
)
def test_places_that_are_none_are_refused(rows_, indices, message):
    with pytest.raises(ValueError, match=message):
        nm_of(np.ones((rows_, 1), np.float32), np.array(indices, np.uint8), 2, 4)
