"""Whole Adam steps of block-sparse layers beside dense ones: a feed-forward block and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from timing import interleaved, ratio

import dst
import dst.nnx
from dst.models.decoder import Decoder

WIDTH, HIDDEN, BATCH = 1024, 4096, 512
# sparsity, block, the goal
FEED_FORWARD = [
    (0.5, 64, "1.0"),
    (0.8, 64, "2.3"),
    (0.9, 64, "3.4"),
    (0.9, 128, "3.9"),
    (0.95, 64, "5.8"),
]
# width, layers, the goal
DECODERS = [(512, 4, "1.75"), (1024, 2, "2.2")]
TOKENS, VOCABULARY = 512, 256


class Step:
    """A jitted Adam step with donated weights and moments, and where they are."""

    def __init__(self, loss: Callable[..., jax.Array], params: Any, *batch: Any):
        tx = optax.adam(1e-3)
        self.params, self.moments, self.batch = params, tx.init(params), batch

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, moments: Any, *batch: Any) -> tuple[Any, Any]:
            grads = jax.grad(loss)(params, *batch)
            updates, moments = tx.update(grads, moments, params)
            return optax.apply_updates(params, updates), moments

        self.step = step

    def __call__(self) -> Any:
        self.params, self.moments = self.step(self.params, self.moments, *self.batch)
        return self.params

    def peak(self) -> float:
        """Bytes of arguments and temporaries of the compiled step."""
        program = self.step.lower(self.params, self.moments, *self.batch).compile()
        memory = program.memory_analysis()
        return float(memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def blocks_of(inputs: int, outputs: int, block: int, sparsity: float) -> tuple[Any, Any]:
    """A kernel and an index, the same number of blocks in every column, at random."""
    random = np.random.default_rng(inputs)
    slots, rows = round((1 - sparsity) * inputs / block), inputs // block
    columns = [np.sort(random.permutation(rows)[:slots]) for _ in range(outputs // block)]
    shape = (outputs // block, slots * block, block)
    kernel = random.normal(size=shape, scale=1 / np.sqrt(slots * block))
    return jnp.asarray(kernel, jnp.float32), jnp.asarray(np.stack(columns), jnp.int32)


def feed_forward(sparsity: float, block: int) -> dict[str, Step]:
    """Steps of two products with ReLU between them, dense and block-sparse."""
    random = np.random.default_rng(0)
    x, target = (jnp.asarray(random.normal(size=(BATCH, WIDTH)), jnp.float32) for _ in range(2))
    shapes = {"up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    weights = {
        name: jnp.asarray(random.normal(size=s) / np.sqrt(s[0]), jnp.float32)
        for name, s in shapes.items()
    }
    parts = {name: blocks_of(*s, block, sparsity) for name, s in shapes.items()}
    kernels = {name: kernel for name, (kernel, _) in parts.items()}
    indices = {name: index for name, (_, index) in parts.items()}

    def dense(p: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        return ((jax.nn.relu(x @ p["up"]) @ p["down"] - target) ** 2).mean()

    def sparse(p: Any, indices: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        product = partial(dst.block_matmul, features_first=True)
        hidden = jax.nn.relu(product(x.T, p["up"], indices["up"]))
        return ((product(hidden, p["down"], indices["down"]).T - target) ** 2).mean()

    return {
        "dense": Step(dense, weights, x, target),
        "blocks": Step(sparse, kernels, indices, x, target),
    }


def decoder(width: int, layers: int, block: int = 64, sparsity: float = 0.9) -> dict[str, Step]:
    """Steps of a decoder, dense and with all seven projections of its blocks block-sparse."""

    def make(replace: bool) -> Step:
        model = Decoder(
            (TOKENS,),
            VOCABULARY,
            width=width,
            layers=layers,
            heads=width // 64,
            hidden=4 * width,
            rngs=nnx.Rngs(0),
        )
        if replace:
            dst.nnx.replace_linear(model, None, block, sparsity)
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        tokens = jax.random.randint(jax.random.key(0), (1, TOKENS + 1), 0, VOCABULARY)

        def loss(params: Any, rest: Any, tokens: jax.Array) -> jax.Array:
            logits = nnx.merge(graph, params, rest)(tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        return Step(loss, params, rest, tokens)

    return {"dense": make(False), "blocks": make(True)}


class Scanned(nnx.Module):
    """Equal layers in a row, as one scan."""

    def __init__(self, layers: int, width: int, rngs: nnx.Rngs):
        make = nnx.vmap(lambda rngs: nnx.Linear(width, width, rngs=rngs))
        self.layers = make(rngs.split(layers))

    def __call__(self, x: jax.Array) -> jax.Array:
        def apply(x: jax.Array, layer: Any) -> jax.Array:
            return jax.nn.relu(layer(x))

        run = nnx.scan(apply, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        result: jax.Array = run(x, self.layers)
        return result


def scanned(layers: int = 8, width: int = 1024, block: int = 64) -> dict[str, Step]:
    """Steps of equal layers, dense and block-sparse at 90 %."""

    def make(replace: bool) -> Step:
        model = Scanned(layers, width, nnx.Rngs(0))
        if replace:
            dst.nnx.replace_linear(model, None, block, 0.9)
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        x = jax.random.normal(jax.random.key(0), (128, width))

        def loss(params: Any, rest: Any, x: jax.Array) -> jax.Array:
            rest = jax.tree.map(lambda x: x, rest)  # variables of this level of tracing, for `scan`
            return ((nnx.merge(graph, params, rest)(x) - x) ** 2).mean()

        return Step(loss, params, rest, x)

    return {"dense": make(False), "blocks": make(True)}


def _compared(runs: dict[str, Step], rounds: int) -> tuple[str, str]:
    seconds = interleaved(runs, rounds)
    faster = f"{ratio(seconds, 'dense', 'blocks'):.2f}"
    return faster, f"{runs['blocks'].peak() / runs['dense'].peak():.2f}"


def bench_blocks(rounds: int) -> list[tuple[str, str, str]]:
    """Rows: what, how much, the goal."""
    rows = []
    for sparsity, block, goal in FEED_FORWARD:
        faster, peak = _compared(feed_forward(sparsity, block), rounds)
        name = f"feed-forward {WIDTH}-{HIDDEN}-{WIDTH}, batch {BATCH}, {sparsity:.0%}, b = {block}"
        rows.append((f"{name}: dense / blocks", faster, f"at least {goal}"))
        rows.append(("  peak memory, blocks / dense", peak, ""))
    faster, peak = _compared(scanned(), rounds)
    rows.append(("8 scanned layers of 1024, batch 128, 90%, b = 64: dense / blocks", faster, ""))
    rows.append(("  peak memory, blocks / dense", peak, "at most 0.30"))
    for width, layers, goal in DECODERS:
        faster, peak = _compared(decoder(width, layers), rounds)
        name = f"decoder {width} wide, {layers} layers, {TOKENS} tokens, 90%, b = 64"
        rows.append((f"{name}: dense / blocks", faster, f"at least {goal}"))
        rows.append(("  peak memory, blocks / dense", peak, ""))
    return rows


if __name__ == "__main__":
    for name, value, goal in bench_blocks(12):
        print(f"{name:<75} {value:>10}  {goal}", flush=True)
