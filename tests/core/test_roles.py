"""A model's modules say which of its arrays are kernels, and what the axes of these mean."""

from __future__ import annotations

import equinox
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx

import dst
import dst.nnx
from dst.core.tree import survey

IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
WORDS = jax.ShapeDtypeStruct((1, 6), jnp.int32)


def sparse(leaves):
    return {leaf.path: leaf.axes for leaf in leaves if leaf.sparse}


class Vision(nnx.Module):
    """Names mislead: a kernel that is called an embedding, a table that is called a kernel."""

    def __init__(self, rngs):
        self.patch_embed = nnx.Conv(3, 8, (2, 2), rngs=rngs)
        self.dw = nnx.Linear(8, 8, rngs=rngs)
        self.mixing = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.gray = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.table = nnx.Embed(16, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
        self.scale = nnx.Param(jnp.ones((4, 4)))


def test_nnx_modules_are_asked_before_names():
    model = nnx.eval_shape(lambda: Vision(nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    assert sparse(survey(params, roles=dst.roles(model))) == {
        "patch_embed/kernel": "k k i o",
        "dw/kernel": "i o",
        "gray/kernel": "k k i o",
        "attention/query/kernel": "i o o",
        "attention/key/kernel": "i o o",
        "attention/value/kernel": "i o o",
        "attention/out/kernel": "i i o",
        "scale": "i o",  # of no module of Flax: a guess, and marked as one
    }
    reasons = {leaf.path: leaf.why for leaf in survey(params, roles=dst.roles(model))}
    assert reasons["table/embedding"] == "embedding of nnx.Embed" and "guess" in reasons["scale"]
    assert reasons["mixing/kernel"] == "kernel of nnx.Conv, depthwise"


def test_block_sparse_layers_say_their_axes_and_stay_as_they_are():
    """Stored blocks are no kernel that sparse training takes; stacked ones have an axis more."""
    model = Vision(nnx.Rngs(0))
    model.stack = nnx.vmap(lambda rngs: nnx.Linear(8, 8, rngs=rngs))(nnx.Rngs(0).split(3))
    paths = ["dw/kernel", "stack/kernel", "attention/out/kernel"]
    assert dst.nnx.replace_linear(model, paths, block=4, sparsity=0.5) == sorted(paths)
    found = {x.path: x for x in survey(nnx.state(model, nnx.Param), roles=dst.roles(model))}
    for path in paths:
        assert found[path].axes == "o i o" and not found[path].sparse
        assert found[path].why == "kernel of dst.nnx.BlockLinear"
        assert found[path].stacked == (path == "stack/kernel")
    assert found["dw/bias"].why == "bias of dst.nnx.BlockLinear"
    assert found["attention/query/kernel"].sparse
    assert dst.nnx.axes(model.dw) == "o i o"


class Text(linen.Module):
    @linen.compact
    def __call__(self, tokens, train):
        x = linen.Embed(16, 8, name="words")(tokens)
        x = linen.MultiHeadDotProductAttention(2, name="attention")(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        x = linen.Dense(8, name="embed_dense")(linen.LayerNorm(name="before")(x))
        x = linen.Conv(8, (3,), feature_group_count=8, name="mixing")(x)
        return linen.DenseGeneral((2, 4), axis=-1, name="heads")(x)


def test_linen_attention_needs_no_axes_by_hand():
    roles = dst.roles(Text(), WORDS, train=True)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda x: Text().init(keys, x, train=True), jnp.ones((1, 6), int))
    with pytest.raises(ValueError, match="can be read in several ways"):
        dst.sparsify(optax.sgd(0.1), dst.Static(0.5)).plan(variables["params"])
    expected = {
        "attention/query/kernel": "i o o",
        "attention/key/kernel": "i o o",
        "attention/value/kernel": "i o o",
        "attention/out/kernel": "i i o",
        "embed_dense/kernel": "i o",
        "heads/kernel": "i o o",
    }
    assert sparse(survey(variables["params"], roles=roles)) == expected
    below = {f"params/{path}": axes for path, axes in expected.items()}
    assert sparse(survey(variables, roles=roles)) == below
    assert dst.sparsify(optax.sgd(0.1), dst.Static(0.5), roles=roles).plan(variables["params"])


def test_equinox_modules_are_asked_where_they_are_the_parameters():
    keys = jax.random.split(jax.random.key(0), 6)
    model = {
        "mlp": equinox.nn.MLP(4, 2, 8, 1, key=keys[0]),
        "embed": equinox.nn.Embedding(16, 8, key=keys[1]),
        "words": equinox.nn.Embedding(16, 8, key=keys[1]),
        "stem": equinox.nn.Conv2d(3, 8, 3, key=keys[2]),
        "mixing": equinox.nn.Conv2d(8, 8, 3, groups=8, key=keys[3]),
        "norm": equinox.nn.LayerNorm((4, 4)),
        "cell": equinox.nn.GRUCell(4, 8, key=keys[4]),
        "plain": jnp.ones((8, 4)),
    }
    params = equinox.filter(model, equinox.is_inexact_array)
    expected = {
        "mlp/layers/0/weight": "o i",
        "mlp/layers/1/weight": "o i",
        "stem/weight": "o i k k",
        "cell/weight_ih": "o i",
        "cell/weight_hh": "o i",
        "plain": "i o",
    }
    assert sparse(survey(params)) == expected
    # Fan-in of a layer is that of its inputs: the second axis.
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.5, "uniform", structure=dst.ConstantFanIn()))
    masks = dst.masks(tx.init(params))
    assert set(masks["mlp/layers/0/weight"].sum(1).tolist()) == {2}


def test_what_the_user_says_comes_before_the_modules():
    model = nnx.Sequential(nnx.Embed(16, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 4, rngs=nnx.Rngs(0)))
    chosen = {"select": ["**/embedding"], "axes": {"**/embedding": "o i"}}
    tx = dst.nnx.Optimizer(model, optax.sgd(0.1), dst.Static(0.5), **chosen).tx
    assert sparse(tx.plan(nnx.state(model, nnx.Param)).leaves) == {"layers/0/embedding": "o i"}


def test_axes_beside_those_of_a_module_enumerate_layers():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return nnx.Linear(8, 4, rngs=nnx.Rngs(key))

    stacked = make(jax.random.split(jax.random.key(0), 3))
    optimizer = dst.nnx.Optimizer(stacked, optax.sgd(0.1), dst.Static(0.5))
    assert stacked.kernel_mask.get_value().sum((1, 2)).tolist() == [16, 16, 16]
    (kernel,) = (x for x in optimizer.tx.plan(nnx.state(stacked, nnx.Param)).leaves if x.sparse)
    assert (kernel.stacked, kernel.axes) == (1, "i o")


def test_roles_of_another_model_are_refused():
    with pytest.raises(ValueError, match="expected a model of Flax NNX, Flax Linen or Equinox"):
        dst.roles({"kernel": jnp.ones((2, 2))})
    roles = dst.roles(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="none of their paths, such as 'bias'.*such as 'a'"):
        survey({"a": jnp.ones((2, 2))}, roles=roles)
