"""Laws of low-rank changes: the start is the pruned model, and merging keeps zeros and outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx

KINDS = ["lora", "mask", "scale"]
X = jax.random.normal(jax.random.key(1), (5, 8))


class Network(nnx.Module):
    """Layers alone, shared and stacked."""

    def __init__(self, rngs):
        self.first = nnx.Linear(8, 6, rngs=rngs)
        self.shared = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.again = self.shared
        stack = nnx.vmap(lambda rngs: nnx.Linear(6, 6, rngs=rngs))
        self.stack = stack(rngs.split(2))
        self.norm = nnx.LayerNorm(6, rngs=rngs)

    def __call__(self, x):
        x = self.again(jnp.tanh(self.shared(self.first(x))))

        def apply(x, layer):
            return jnp.tanh(layer(x))

        return self.norm(nnx.scan(apply, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.stack))


def pruned():
    model = Network(nnx.Rngs(0))
    return model, dst.nnx.prune(model, 0.5, stacked={"stack/kernel": 1})


def kernels(model):
    return {
        "/".join(map(str, path)): np.asarray(x.get_value())
        for path, x in nnx.to_flat_state(nnx.state(model, nnx.Param))
        if path[-1] == "kernel"
    }


def test_the_worked_table():
    """In the orientation [outputs, inputs]: W = [[1, 0, 2], [0, 3, 0]], B = [1, 2], A = [.1, .2,
    .3], s = 2."""
    layer = nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.array([[1.0, 0], [0, 3], [2, 0]]))
    mask = layer.kernel.get_value() != 0
    for kind in ("lora", "mask"):
        changed = dst.nnx.SparseLoRA(layer, mask, kind=kind, rank=1, alpha=2, rngs=nnx.Rngs(0))
        changed.change.lora_a.set_value(jnp.array([[0.1], [0.2], [0.3]]))
        changed.change.lora_b.set_value(jnp.array([[1.0, 2.0]]))
        merged = changed.merged().kernel.get_value()
        np.testing.assert_allclose(merged, np.array([[1.2, 0, 2.6], [0, 3.8, 0]]).T, rtol=1e-6)
    scaled = dst.nnx.SparseLoRA(layer, mask, kind="scale", rank=2, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(scaled.weights(), layer.kernel.get_value(), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_computes_what_the_pruned_model_does(kind):
    model, _ = pruned()
    before = model(X)
    assert sorted(dst.nnx.add_lora(model, kind=kind, rank=2, rngs=nnx.Rngs(1))) == [
        "again/kernel",  # shared: one module, the first of its names
        "first/kernel",
        "stack/kernel",
    ]
    assert model.shared is model.again
    np.testing.assert_allclose(model(X), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_changes_are_merged_without_losing_a_zero(kind):
    model, masks = pruned()
    start = kernels(model)
    dst.nnx.add_lora(model, kind=kind, rank=2, rngs=nnx.Rngs(1))
    wrt = nnx.All(nnx.Param, lambda path, x: path[-1] in ("lora_a", "lora_b", "scale"))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=wrt)
    for _ in range(3):
        grads = nnx.grad(lambda m: (m(X) ** 3).sum(), argnums=nnx.DiffState(0, wrt))(model)
        optimizer.update(model, grads)
    for path, kernel in kernels(model).items():
        np.testing.assert_array_equal(kernel, start[path])  # the kernels themselves stay
    merged = dst.nnx.merge_lora(model)
    assert type(merged.stack) is nnx.Linear and merged.shared is merged.again
    for path, kernel in kernels(merged).items():
        mask = np.asarray(masks[path])
        assert not kernel[~mask].any() and (kernel[mask] != start[path][mask]).all()
    ours = model(X)
    if kind == "lora":
        filled = dst.nnx.merge_lora(model, keep_zeros=False)
        assert all((x != 0).all() for x in kernels(filled).values())
        np.testing.assert_allclose(filled(X), ours, rtol=1e-4, atol=1e-5)
        assert not np.allclose(merged(X), ours, atol=1e-3)
    else:
        np.testing.assert_allclose(merged(X), ours, rtol=1e-4, atol=1e-5)


def test_a_kept_weight_that_is_zero_may_change():
    layer = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.array([[0.0, 1], [0, 1]]))
    model = nnx.Sequential(layer)
    masks = {"layers/0/kernel": np.array([[True, True], [False, True]])}
    dst.nnx.add_lora(model, rank=1, masks=masks, rngs=nnx.Rngs(0))
    model.layers[0].change.lora_b.set_value(jnp.ones((1, 2)))
    kernel = np.asarray(dst.nnx.merge_lora(model).layers[0].kernel.get_value())
    assert kernel[0, 0] != 0 and kernel[1, 0] == 0


def test_what_does_not_fit_is_refused():
    model, _ = pruned()
    with pytest.raises(ValueError, match="rank must be an integer"):
        dst.nnx.add_lora(model, rank=7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="norm/scale belongs to none"):
        dst.nnx.add_lora(model, ["norm/scale"], rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="kernel belongs to none"):
        dst.nnx.add_lora(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="expected a mask of shape"):
        dst.nnx.SparseLoRA(
            nnx.Linear(4, 4, rngs=nnx.Rngs(0)), np.ones((2, 2), bool), rank=2, rngs=nnx.Rngs(0)
        )


def test_gates_multiply_components_and_zeros_lower_the_rank():
    layer = nnx.Linear(8, 6, rngs=nnx.Rngs(0))
    kernel = layer.kernel.get_value()
    mask = jnp.abs(kernel) > jnp.median(jnp.abs(kernel))
    layer.kernel.set_value(jnp.where(mask, kernel, 0))
    changed = dst.nnx.SparseLoRA(layer, mask, rank=3, alpha=6, gate=True, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(changed.weights(), layer.kernel.get_value())  # B is zero
    assert changed.gate.shape == (1, 3)
    b = jax.random.normal(jax.random.key(2), (3, 6))
    changed.change.lora_b.set_value(b)
    changed.gate.set_value(jnp.array([[0.5, 0.0, 0.0]]))
    a = changed.change.lora_a.get_value()
    one = 2 * 0.5 * np.outer(a[:, 0], b[0])
    expected = layer.kernel.get_value() + np.where(mask, one, 0)
    merged = changed.merged()
    np.testing.assert_allclose(merged.kernel.get_value(), expected, rtol=1e-5, atol=1e-6)
    assert (np.asarray(merged.kernel.get_value())[~np.asarray(mask)] == 0).all()
    np.testing.assert_allclose(merged(X), changed(X), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="gate: expected a change that is added"):
        dst.nnx.SparseLoRA(layer, mask, kind="scale", rank=3, gate=True, rngs=nnx.Rngs(1))
