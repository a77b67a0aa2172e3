"""A program without calls, and without loops over the weights of interest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from dst.core import jaxprs

# What a value depends on; of several operands the highest decides.
CONSTANT, WEIGHTS, DATA = range(3)

_Marked = tuple[Any, int]  # a value, and what it depends on
# They concern scheduling and checkpointing, not values.
_TRANSPARENT = ("optimization_barrier", "name")


def flattened(program: ClosedJaxpr, kinds: Sequence[int]) -> ClosedJaxpr:
    """The same program in one flat list of equations.

    Calls (``jit``, ``checkpoint``, rules of derivatives) are replaced by their bodies. A ``scan``
    that reads weights is replaced by its iterations; other loops stay as they are.

    Args:
      program: a jaxpr.
      kinds: what each input is: ``CONSTANT``, ``WEIGHTS`` or ``DATA``.
    """

    def run(*inputs: Any) -> list[Any]:
        marked = list(zip(inputs, kinds, strict=True))
        return [x for x, _ in _interpret(program, marked)]

    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in program.in_avals
    ]
    return jax.make_jaxpr(run)(*shapes)


def _interpret(program: ClosedJaxpr, inputs: Sequence[_Marked]) -> list[_Marked]:
    return jaxprs.interpret(
        program,
        inputs,
        _equation,
        literal=lambda x: (x.val, CONSTANT),
        constant=lambda x: (x, CONSTANT),
    )


def _equation(eqn: JaxprEqn, operands: list[_Marked]) -> list[_Marked]:
    name, kinds = eqn.primitive.name, [kind for _, kind in operands]
    if name in _TRANSPARENT:
        return operands
    if (body := jaxprs.body(eqn)) is not None:
        return _interpret(body, operands)
    if name == "scan" and WEIGHTS in kinds and eqn.params["length"]:
        return _unrolled(eqn, operands)
    kind = max(kinds, default=CONSTANT)
    if name == "split" and kind == WEIGHTS:
        return [(x, kind) for x in _slices(operands[0][0], **eqn.params)]
    return [(x, kind) for x in jaxprs.bind(eqn, [x for x, _ in operands])]


def _slices(x: Any, *, sizes: Sequence[int], axis: int) -> list[Any]:
    ends = [sum(map(int, sizes[: i + 1])) for i in range(len(sizes))]
    return [
        lax.slice_in_dim(x, end - int(n), end, axis=axis)
        for n, end in zip(sizes, ends, strict=True)
    ]


def _unrolled(eqn: JaxprEqn, operands: list[_Marked]) -> list[_Marked]:
    p = eqn.params
    consts, carried, length = p["num_consts"], p["num_carry"], p["length"]
    fixed, carry = operands[:consts], operands[consts : consts + carried]
    stacked = operands[consts + carried :]
    rows: list[list[_Marked]] = [[]] * length
    for i in reversed(range(length)) if p["reverse"] else range(length):
        slices = [(lax.index_in_dim(x, i, keepdims=False), kind) for x, kind in stacked]
        results = _interpret(p["jaxpr"], [*fixed, *carry, *slices])
        carry, rows[i] = results[:carried], results[carried:]
    columns = [
        (
            lax.concatenate([lax.expand_dims(x, (0,)) for x, _ in column], 0),
            max(kind for _, kind in column),
        )
        for column in zip(*rows, strict=True)
    ]
    return [*carry, *columns]
