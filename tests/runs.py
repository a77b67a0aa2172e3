"""Tiny training runs in every container, checked at every step: what grid and laws share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

import dst
import dst.nnx
from dst.core.tree import flatten
from dst.engine.state import sparse_states
from tests.quick import QUICK

SHAPES = {"hidden/kernel": (8, 16), "out/kernel": (16, 4)}
SPARSITY = 0.75
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(32, 8)).astype(np.float32)
Y = RANDOM.normal(size=(32, 4)).astype(np.float32)


def initial_params() -> dict[str, Any]:
    """The network of every container, as a dict."""
    hidden, out = jax.random.split(jax.random.key(0))
    return {
        "hidden": {"kernel": jax.random.normal(hidden, (8, 16)) / 3, "bias": jnp.zeros(16)},
        "out": {"kernel": jax.random.normal(out, (16, 4)) / 4, "bias": jnp.zeros(4)},
    }


def forward(params: dict[str, Any], x: Any) -> Any:
    """tanh, one hidden layer."""
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"][None]


def error(predicted: Any) -> Any:
    """Mean squared error."""
    return jnp.mean((predicted - Y) ** 2)


class LinenNet(nn.Module):
    """The same network in Linen."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="out")(jnp.tanh(nn.Dense(16, name="hidden")(x)))


class NnxNet(nnx.Module):
    """The same network in NNX."""

    def __init__(self):
        self.hidden = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(16, 4, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def largest_off_mask(params: Any, opt_state: Any) -> Any:
    """The largest absolute weight where the masks say there is none."""
    paths, leaves, _ = flatten(params)
    weights, largest = dict(zip(paths, leaves, strict=True)), jnp.float32(0)
    for path, mask in dst.masks(opt_state).items():
        off = jnp.where(mask, 0, jnp.abs(weights[path].astype(jnp.float32)))
        largest = jnp.maximum(largest, jnp.max(off, initial=0.0))
    return largest


def moments_off_mask(opt_state: Any) -> tuple[Any, int]:
    """The largest absolute optimizer slot where the masks say there is no weight, and the number of
    slots. A slot has the shape of a weight, and a path that ends with the weight's."""
    largest, found = jnp.float32(0), 0
    for state in sparse_states(opt_state):
        paths, slots, _ = flatten(state.inner_state)
        for weight, mask in dst.masks(state).items():
            for path, slot in zip(paths, slots, strict=True):
                if f"/{path}".endswith(f"/{weight}") and slot.shape == mask.shape:
                    off = jnp.where(mask, 0, jnp.abs(slot.astype(jnp.float32)))
                    largest, found = jnp.maximum(largest, jnp.max(off, initial=0.0)), found + 1
    return largest, found


def look(params: Any, opt_state: Any) -> dict[str, Any]:
    """What is asserted after every step; cheap, and part of the compiled step."""
    off_moment, slots = moments_off_mask(opt_state)
    return {
        "off": largest_off_mask(params, opt_state),
        "off_moment": off_moment,
        "slots": jnp.int32(slots),
        "active": {p: m.sum(dtype=jnp.int32) for p, m in dst.masks(opt_state).items()},
        "done": sum(state.topology.done for state in sparse_states(opt_state)),
    }


def quick(tx: Any) -> optax.GradientTransformationExtraArgs:
    """A transformation whose ``init`` and ``update`` are one program each, compiled quickly."""
    compiled = partial(jax.jit, compiler_options=QUICK)
    return optax.GradientTransformationExtraArgs(
        compiled(tx.init), compiled(tx.update, static_argnames="topology")
    )


# One object per container. `step(topology)` trains and returns what `look` sees; the state is
# donated from the very first step.


class DictRun:
    """Parameters in a dict."""

    def __init__(self, tx: Any, options: Any = None, params: Any = None, loss: Any = None):
        self.params = initial_params() if params is None else params
        self.state = tx.init(self.params)
        self.params = dst.apply_masks(self.params, self.state)
        loss = loss or (lambda p: error(forward(p, X)))

        @partial(
            jax.jit,
            static_argnames="topology",
            donate_argnames=("params", "state"),
            compiler_options=options,
        )
        def step(params, state, topology):
            grads = jax.grad(loss)(params)
            updates, state = tx.update(grads, state, params, topology=topology)
            params = optax.apply_updates(params, updates)
            return params, state, look(params, state)

        self.program = step

    def step(self, topology: bool | None = None) -> dict[str, Any]:
        """One micro-step."""
        self.params, self.state, measured = self.program(self.params, self.state, topology=topology)
        return measured

    def check(self) -> None:
        """The library's own check."""
        dst.check_invariants(self.state, self.params)


class LinenRun:
    """Linen and its TrainState, whose ``apply_gradients`` has no way to pass the flag on."""

    def __init__(self, tx: Any, options: Any = None):
        model = LinenNet()
        params = model.init(jax.random.key(0), X)["params"]
        train = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
        self.train = train.replace(params=dst.apply_masks(params, train.opt_state))

        @partial(jax.jit, donate_argnames="train", compiler_options=options)
        def step(train):
            grads = jax.grad(lambda p: error(train.apply_fn({"params": p}, X)))(train.params)
            train = train.apply_gradients(grads=grads)
            return train, look(train.params, train.opt_state)

        self.program = step

    def step(self, topology: bool | None = None) -> dict[str, Any]:
        """One micro-step; the count decides."""
        self.train, measured = self.program(self.train)
        return measured

    def check(self) -> None:
        """The library's own check."""
        dst.check_invariants(self.train.opt_state, self.train.params)


class NnxRun:
    """An NNX model with any ``nnx.Optimizer``, split once and trained as one state."""

    def __init__(self, optimizer_of: Callable[[Any], nnx.Optimizer], options: Any = None):
        model = NnxNet()
        optimizer = optimizer_of(model)
        if not isinstance(optimizer, dst.nnx.Optimizer):
            params = nnx.state(model, nnx.Param)
            nnx.update(model, dst.apply_masks(params, nnx.as_pure(optimizer.opt_state)))
        self.objects = (model, optimizer)
        graph, self.state = nnx.split(self.objects)

        @partial(
            jax.jit, static_argnames="topology", donate_argnames="state", compiler_options=options
        )
        def step(state, topology):
            model, optimizer = nnx.merge(graph, state)
            params = nnx.DiffState(0, nnx.Param)
            grads = nnx.grad(lambda m: error(m(X)), argnums=params)(model)
            optimizer.update(model, grads, topology=topology)
            measured = look(nnx.state(model, nnx.Param), nnx.as_pure(optimizer.opt_state))
            return nnx.state((model, optimizer)), measured

        self.program = step

    def step(self, topology: bool | None = None) -> dict[str, Any]:
        """One micro-step."""
        self.state, measured = self.program(self.state, topology=topology)
        return measured

    def check(self) -> None:
        """The library's own check, with the model's copy of the masks where it has one."""
        nnx.update(self.objects, self.state)
        dst.nnx.check_invariants(*self.objects)


_COMPILED = [0]


def _count_compilation(event: str, duration: float, **_: Any) -> None:
    _COMPILED[0] += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count_compilation)


@dataclass
class Compilations:
    """How many programs were compiled inside a ``with compilations()`` block."""

    before: int = field(default_factory=lambda: _COMPILED[0])

    @property
    def count(self) -> int:
        """So far."""
        return _COMPILED[0] - self.before


@contextmanager
def compilations() -> Iterator[Compilations]:
    """Counts everything that is compiled, whatever container or operation asks for it."""
    yield Compilations()


def constant_counts(count: int) -> dict[str, int]:
    """Active weights of methods that keep the sparsity."""
    return {p: n * m - int(Fraction(SPARSITY) * n * m) for p, (n, m) in SHAPES.items()}


def cubic_counts(count: int, start: int, stop: int) -> dict[str, int]:
    """Active weights under gradual pruning after the last pruning step until ``count``."""
    x = min(max(Fraction(count - start, stop - start), Fraction(0)), Fraction(1))
    sparsity = Fraction(SPARSITY) * (1 - (1 - x) ** 3)
    return {p: n * m - int(sparsity * n * m) for p, (n, m) in SHAPES.items()}
