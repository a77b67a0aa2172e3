"""What a decoder's training step costs beside its matrix products."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.extend.core import jaxprs_in_params
from timing import interleaved, ratio

from dst.models.decoder import Decoder

BATCH, CONTEXT, BYTES = 16, 128, 256


def step_of(scan: bool) -> tuple[Callable[..., Any], Any]:
    """Loss and gradients of the decoder of the text experiment, and its arguments."""
    model = Decoder(
        (CONTEXT,), BYTES, width=128, layers=4, heads=4, kv_heads=2, scan=scan, rngs=nnx.Rngs(0)
    )
    graphdef, params = nnx.split(model, nnx.Param)
    tokens = jax.random.randint(jax.random.key(0), (BATCH, CONTEXT + 1), 0, BYTES)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, params)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return jax.value_and_grad(loss), (params, tokens)


def products(jaxpr: Any) -> Iterator[Any]:
    """Every matrix product of a program without loops."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def alone(step: Callable[..., Any], arguments: Any) -> tuple[Callable[[], Any], float]:
    """The matrix products of a step, each with operands of its own; their operations."""
    equations = list(products(jax.make_jaxpr(step)(*arguments).jaxpr))
    operands, work = [], 0.0
    for i, equation in enumerate(equations):
        left, right = (x.aval for x in equation.invars)
        keys = jax.random.split(jax.random.key(i))
        operands.append(
            [jax.random.normal(k, x.shape) for k, x in zip(keys, (left, right), strict=True)]
        )
        ((contracted, _), _) = equation.params["dimension_numbers"]
        inner = math.prod(left.shape[axis] for axis in contracted)
        work += 2.0 * equation.outvars[0].aval.size * inner

    @jax.jit
    def run(operands: Any) -> Any:
        return [e.primitive.bind(*x, **e.params) for e, x in zip(equations, operands, strict=True)]

    return lambda: run(operands), float(work)


def bench_decoder(rounds: int) -> list[tuple[str, str, str]]:
    """Steps with blocks in a list and as a scan, relative to their matrix products."""
    runs: dict[str, Callable[[], Any]] = {}
    for name, scan in (("list", False), ("scan", True)):
        step, arguments = step_of(scan)
        compiled = jax.jit(step)
        runs[name] = lambda compiled=compiled, arguments=arguments: compiled(*arguments)
        if not scan:
            runs["products"], work = alone(step, arguments)
    s = interleaved(runs, rounds)
    speed = work / float(np.median(s["products"])) / 1e9
    return [
        ("decoder, matrix products of a step", f"{speed:.0f} GFLOP/s", ""),
        ("decoder, step / its products", f"{ratio(s, 'list', 'products'):.2f}", "at most 2.5"),
        (
            "decoder, scan, step / its products",
            f"{ratio(s, 'scan', 'products'):.2f}",
            "at most 2.5",
        ),
    ]


if __name__ == "__main__":
    for name, value, goal in bench_decoder(int(sys.argv[1]) if sys.argv[1:] else 40):
        print(f"{name:<40} {value:>14}  {goal}")
