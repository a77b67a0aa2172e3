"""What users write, fully annotated; tests/test_typing.py has it checked by ``mypy --strict``."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]  # it ships no types
from flax import nnx

import dst
import dst.train

Params = dict[str, jax.Array]


def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def plain_loop(x: jax.Array, y: jax.Array) -> tuple[Params, dst.SparsifyState]:
    """The two lines, in a loop over a dictionary of arrays."""
    params: Params = {"hidden": x[:64] / 8, "out": x[64:128, :10] / 8}
    method = dst.RigL(sparsity=0.9, allocation=dst.ErdosRenyi(), every=10, stop=80)
    tx = dst.sparsify(optax.adam(1e-2), method, seed=0)
    state = tx.init(params)
    params = dst.apply_masks(params, state)

    @jax.jit
    def step(params: Params, state: optax.OptState) -> tuple[Params, optax.OptState]:
        grads = jax.grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        updates, state = tx.update(grads, state, params, topology=True)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    masks: dict[str, jax.Array] = dst.masks(state)
    active: int = int(masks["hidden"].sum())
    figures: dict[str, jax.Array] = dst.metrics(state, params)
    print(active, {name: float(value) for name, value in figures.items()})
    print(dst.table(state, params), dst.explain(state, "hidden", params))
    for row in dst.rows(state, params):
        print(row.path)
    dst.check_invariants(state, params)
    return params, state


def recorded(x: jax.Array, y: jax.Array) -> float:
    """A loop whose records `dst report` shows, read back."""
    params: Params = {"hidden": x[:64] / 8, "out": x[64:128, :10] / 8}
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.5))
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    with dst.train.Recorder("runs/mine", tx, state, {"seed": 0}) as recorder:
        for step in range(1, 4):
            value, grads = jax.value_and_grad(loss)(params, x, y)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            recorder.step(step, state, params, loss=value)
        figures = recorder.finish(state, params, accuracy=0.5)
    masks: dict[str, np.ndarray] = dst.train.Run(Path("runs/mine")).masks
    return float(figures["sparsity"]) + masks["out"].size


def files(params: Params, state: dst.SparsifyState) -> None:
    """Masks in a file, and training that starts from them."""
    dst.save_masks("masks.safetensors", dst.masks(state))
    dst.save_weights("weights.safetensors", params)
    found: dict[str, np.ndarray] = dst.load_masks("masks.safetensors")
    fixed = dst.sparsify(optax.sgd(0.1), dst.FromMasks(found))
    print(fixed.init(params))


def pruned(params: Params) -> Params:
    """A trained model, pruned at once."""
    weights, masks = dst.prune(params, 0.8)
    print({path: mask.sum() for path, mask in masks.items()})
    return weights


class Net(nnx.Module):
    """Two layers."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out: jax.Array = self.out(nnx.relu(self.hidden(x)))
        return out


def flax_loop(x: jax.Array, y: jax.Array) -> Net:
    """A model that carries its masks."""
    model = Net(rngs=nnx.Rngs(0))
    optimizer = dst.nnx.Optimizer(model, optax.adamw(1e-3), dst.SET(sparsity=0.8, every=2, stop=4))

    def loss(model: Net) -> jax.Array:
        return jnp.mean((model(x) - y) ** 2)

    for _ in range(3):
        grads = nnx.grad(loss)(model)
        optimizer.update(model, grads)
    for path, mask in dst.nnx.masks(model).items():
        print(path, mask.sum())
    dst.nnx.check_invariants(model, optimizer)
    print(dst.nnx.costs(model, x))
    dst.nnx.detach(model)
    return model


def methods() -> list[float]:
    """Methods of several kinds."""
    gmp = dst.GMP(sparsity=0.9, every=100, start=0, stop=5000)
    itop = dst.rigl_itop(0.9, every=100)
    return [gmp.sparsity, itop.sparsity, dst.Static(sparsity=0.5).sparsity]


def costs(params: Params, x: jax.Array) -> None:
    """Multiplications of the network, by leaf."""
    found = dst.flops.trace(lambda p, x: jnp.tanh(x @ p["hidden"]) @ p["out"], params, x[:1])
    print(found)


if __name__ == "__main__":
    inputs = jax.random.normal(jax.random.key(0), (256, 64))
    targets = inputs[:, :10]
    trained, final = plain_loop(inputs, targets)
    files(trained, final)
    costs(trained, inputs)
    print(recorded(inputs, targets))
    print(jax.tree.map(jnp.shape, pruned(trained)), flax_loop(inputs, targets), methods())
