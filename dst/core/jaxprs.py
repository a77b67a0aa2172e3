"""The one evaluator of jaxprs: equation by equation, with values of any kind.

What walks over a traced program says what an equation makes of its operands. Values may be arrays
and tracers (evaluation), origins (abstract interpretation), or pairs of both. How JAX writes calls,
literals and parameters of equations is known here only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

Atom = Var | Literal
Value = TypeVar("Value")

# Calls that compute what their body computes, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "composite": "jaxpr",
}
_DERIVATIVES = "custom_"  # calls with rules of derivatives, which do not matter to their values

#: Primitives that only change the layout, or the type, of their first operand.
LAYOUT = frozenset(
    "broadcast_in_dim convert_element_type copy copy_p device_put expand_dims mesh_cast name "
    "optimization_barrier reduce_precision reshape reshard rev sharding_constraint slice squeeze "
    "transpose".split()
)


def closed(program: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """A program with its constants; one without constants as such."""
    return ClosedJaxpr(program, ()) if isinstance(program, Jaxpr) else program


def body_key(eqn: JaxprEqn) -> str | None:
    """The parameter that holds the body of a call; None for other operations."""
    key = _CALLS.get(eqn.primitive.name)
    return key if key in eqn.params else None


def body(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The body of a call, which may replace it; None for other operations."""
    key = body_key(eqn)
    return None if key is None else closed(eqn.params[key])


def has_derivatives(eqn: JaxprEqn) -> bool:
    """Whether a call has parameters that concern its derivatives alone."""
    return body_key(eqn) is not None and eqn.primitive.name.startswith(_DERIVATIVES)


def bind(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """What an equation computes from values: arrays, or tracers of a program being traced."""
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results]


def number(literal: Literal) -> np.ndarray:
    """The value of a literal, of the type that the program gives it."""
    shaped: Any = literal.aval
    return np.asarray(literal.val, shaped.dtype)


def interpret(
    program: Jaxpr | ClosedJaxpr,
    inputs: Sequence[Value],
    equation: Callable[[JaxprEqn, list[Value]], Iterable[Value]],
    *,
    literal: Callable[[Literal], Value] = lambda x: x.val,
    constant: Callable[[Any], Value] = lambda x: x,
) -> list[Value]:
    """The results of a program whose values are whatever the functions make of them.

    Args:
      program: a jaxpr.
      inputs: a value per input variable.
      equation: ``equation(eqn, operands)`` returns a value per result. It decides about calls:
        to go into one, it interprets ``body(eqn)``.
      literal: the value of a literal; read in the order of the program.
      constant: the value of a constant of the program.
    """
    program = closed(program)
    jaxpr = program.jaxpr
    known: dict[Var, Value] = {
        var: constant(x) for var, x in zip(jaxpr.constvars, program.consts, strict=True)
    }
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Atom) -> Value:
        return literal(atom) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        results = equation(eqn, [read(x) for x in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def between(
    program: ClosedJaxpr, sources: Sequence[Var], targets: Sequence[Var], steps: Sequence[int]
) -> Jaxpr:
    """The part of a program that computes some of its variables from others.

    Equal parts of a program have equal texts, ``str(part)``.

    Args:
      program: a jaxpr.
      sources: variables whose values are given.
      targets: variables that are wanted.
      steps: the numbers of the equations between them, ascending.
    """
    eqns = [program.jaxpr.eqns[i] for i in steps]
    return program.jaxpr.replace(
        constvars=[], invars=list(sources), outvars=list(targets), eqns=eqns
    )
