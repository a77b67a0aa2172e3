"""Laws of Flax models without zeros: they train what the masked model trains."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx

X = jax.random.normal(jax.random.key(0), (4, 5, 16))
Y = jax.random.normal(jax.random.key(1), (4, 5, 8))


class Network(nnx.Module):
    """Linear layers, merged heads, and layers that a scan stacks."""

    def __init__(self, rngs):
        self.first = nnx.Linear(16, 16, rngs=rngs)
        heads = {"num_heads": 2, "in_features": 16, "decode": False}
        self.attention = nnx.MultiHeadAttention(**heads, rngs=rngs)
        layer = nnx.vmap(lambda rngs: nnx.Linear(16, 16, rngs=rngs))
        self.stack = layer(rngs.split(2))
        self.early = self.late = nnx.Linear(16, 16, rngs=rngs)
        self.list = nnx.List([nnx.Linear(16, 8, rngs=rngs)])

    def __call__(self, x):
        x = jnp.tanh(self.first(x))
        x = x + self.attention(x)
        step = nnx.scan(
            lambda x, layer: x + jnp.tanh(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
        )
        x = step(x, self.stack)
        return self.list[0](self.late(jnp.tanh(self.early(x))))


def loss(model):
    return ((model(X) - Y) ** 2).mean()


@partial(nnx.jit, donate_argnums=(0, 1))
def hot(model, optimizer):
    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads, topology=False)
    return value


@partial(nnx.jit, donate_argnums=(0, 1))
def hot_in_a_row(model, optimizer):
    value, grads = nnx.value_and_grad(lambda m: loss(dst.nnx.unpack(m)))(model)
    optimizer.update(model, grads, topology=False)
    return value


@partial(nnx.jit, donate_argnums=(0, 1))
def topology_step(model, optimizer):
    value, grads = nnx.value_and_grad(loss)(dst.nnx.unpack(model))
    optimizer.retopologise(model, grads)
    return value


@partial(nnx.jit, static_argnums=2)
def masked_step(model, optimizer, topology):
    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads, topology=topology)
    return value


BLOCKS = {"structure": dst.BalancedBlock(4, 4), "allocation": "uniform"}


def trained_together(packed, method, step):
    """Losses of a packed model and of the masked one that starts with its weights and masks."""
    inner, stacked = optax.sgd(0.1, momentum=0.9), {"stack/kernel": 1}
    options = {"stacked": stacked} if step is hot_in_a_row else {}
    optimizer = dst.nnx.Optimizer(packed, inner, method, form="packed", **options)
    masked = dst.nnx.unpack(packed)
    nnx.update(masked, jax.tree.map(jnp.copy, nnx.state(masked)))  # the packed steps donate
    masks = dst.masks(nnx.as_pure(optimizer.opt_state))
    reference = dst.nnx.Optimizer(masked, inner, method, initial=masks, stacked=stacked)
    for count in range(10):
        fires = optimizer.tx.fires(count)
        ours = (topology_step if fires else step)(packed, optimizer)
        theirs = masked_step(masked, reference, fires)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    theirs = dst.masks(nnx.as_pure(reference.opt_state))
    for path, mask in dst.masks(nnx.as_pure(optimizer.opt_state)).items():
        np.testing.assert_array_equal(mask, theirs[path], path)
        assert (mask != masks[path]).any()  # something moved
    dense = nnx.state(dst.nnx.unpack(packed), nnx.Param)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        dense,
        nnx.state(masked, nnx.Param),
    )


def test_block_layers_train_what_the_masked_model_trains():
    packed = Network(nnx.Rngs(0))
    replaced = dst.nnx.replace_linear(packed, None, 4, 0.5)
    assert len(replaced) == 8 and packed.early is packed.late
    method = dst.RigL(0.5, drop_fraction=0.6, every=3, stop=20, **BLOCKS)
    trained_together(packed, method, hot)


def test_kernels_in_a_row_train_what_the_masked_model_trains():
    packed = Network(nnx.Rngs(0))
    trained_together(packed, dst.RigL(0.5, every=3, stop=20), hot_in_a_row)
    assert packed.first.kernel.get_value().ndim == 1


def test_stacked_layers_are_replaced_and_come_back():
    model, before = Network(nnx.Rngs(0)), nnx.state(Network(nnx.Rngs(0)), nnx.Param)
    assert len(dst.nnx.replace_linear(model, None, 4, 0.25)) == 8
    assert model.stack.kernel.get_value().shape == (2, 4, 12, 4)
    back = dst.nnx.unpack(model)
    np.testing.assert_allclose(model(X), back(X), rtol=1e-4, atol=1e-5)
    assert type(back.stack) is nnx.Linear and type(back.attention.out) is nnx.LinearGeneral
    assert back.early is back.late
    known = dict(nnx.to_flat_state(before))
    for path, variable in nnx.to_flat_state(nnx.state(back, nnx.Param)):
        value, old = variable.get_value(), known[path].get_value()
        np.testing.assert_array_equal(value, jnp.where(value == 0, 0, old), str(path))
        if path[-1] == "kernel":
            assert float((value == 0).mean()) == 0.25


@pytest.mark.parametrize("initial", ["random", "magnitude"])
def test_the_weights_of_replaced_layers_stay_and_blocks_are_as_many_in_every_column(initial):
    layer = nnx.Linear(12, 8, rngs=nnx.Rngs(0))
    kernel = np.asarray(layer.kernel.get_value())
    model = nnx.Sequential(layer)
    dst.nnx.replace_linear(model, block=(3, 2), sparsity=0.5, initial=initial)
    dense = np.asarray(dst.nnx.unpack(model).layers[0].kernel.get_value())
    units = dense.reshape(4, 3, 4, 2)
    kept = (units != 0).any(axis=(1, 3))
    assert (kept.sum(axis=0) == 2).all()
    np.testing.assert_array_equal(dense, np.where(np.kron(kept, np.ones((3, 2))), kernel, 0))
    if initial == "magnitude":
        sums = np.abs(kernel).reshape(4, 3, 4, 2).sum(axis=(1, 3))
        np.testing.assert_array_equal(kept, sums >= np.sort(sums, axis=0)[2])


def test_block_layers_train_with_any_optimizer_and_export():
    model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
    dst.nnx.replace_linear(model, block=2, sparsity=0.5)
    index = np.asarray(model.layers[0].kernel_index.get_value())
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    for _ in range(2):
        grads = nnx.grad(lambda m: (m(jnp.ones((2, 8))) ** 2).sum())(model)
        optimizer.update(model, grads)
    np.testing.assert_array_equal(model.layers[0].kernel_index.get_value(), index)
    assert float((dst.nnx.unpack(model).layers[0].kernel.get_value() != 0).mean()) == 0.5


def test_smupar_scales_new_weights_in_both_forms():
    models = [nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0))) for _ in range(3)]
    method = dst.Static(0.75, allocation="uniform")
    for model, form in zip(models, ("packed", "masked"), strict=False):
        dst.nnx.Optimizer(model, optax.adam(1e-3), method, form=form, scale="smupar")
    packed, masked, new = (
        x.layers[0].kernel.get_value() for x in (dst.nnx.unpack(models[0]), *models[1:])
    )
    np.testing.assert_array_equal(packed, masked)
    np.testing.assert_array_equal(packed, jnp.where(packed == 0, 0, 2 * new))


def test_what_does_not_fit_is_refused_by_name():
    model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="matches no parameter"):
        dst.nnx.replace_linear(model, "**/weight")
    with pytest.raises(ValueError, match="multiples of 3"):
        dst.nnx.replace_linear(model, block=3)
    both = nnx.Sequential(nnx.Embed(8, 8, rngs=nnx.Rngs(0)), *model.layers)
    with pytest.raises(ValueError, match="embedding belongs to no nnx.Linear"):
        dst.nnx.replace_linear(both, ["**/kernel", "**/embedding"], block=2, sparsity=0.5)
    with pytest.raises(ValueError, match="is itself the layer"):
        dst.nnx.replace_linear(model.layers[0])
    with pytest.raises(ValueError, match="this one has none"):
        dst.nnx.replace_linear(nnx.Sequential(nnx.LayerNorm(4, rngs=nnx.Rngs(0))))
    dst.nnx.replace_linear(model, block=2, sparsity=0.5)
    method = dst.RigL(0.5, every=3, stop=20)
    with pytest.raises(ValueError, match='stores no zeros. Say form="packed"'):
        dst.nnx.Optimizer(model, optax.sgd(0.1), method)
    with pytest.raises(ValueError, match=r"Use structure=dst.BalancedBlock\(2, 2\)"):
        dst.nnx.Optimizer(model, optax.sgd(0.1), method, form="packed")
    with pytest.raises(ValueError, match=r"expected inputs \[..., 8\]"):
        model(jnp.ones((2, 4)))
