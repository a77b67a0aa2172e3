"""Programs that are the same but for numbers, as one program that takes the numbers as data.

Two trials can train in one program when what JAX traces of their steps differs in scalar constants
only: then these become arguments, one row per trial, and ``jax.vmap`` does the rest. So nobody has
to list which settings are such numbers: a learning rate is one, a weight decay, a clipping norm; a
width, an optimizer or whether there is a warm-up at all is none, and the trace says where it shows.
What lies in the training state already (seed, sparsity, drop fraction, cadence) is data anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Calls whose body may as well stand in the place of the call.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Different(ValueError):
    """Programs that cannot be one; the text says where they part."""


@dataclass(frozen=True)
class Merged:
    """One program for several.

    Attributes:
      program: what was traced of the first.
      places: of its numbers, in the order of the program: those that are arguments now.
      rows: these numbers, a tuple per program.
    """

    program: ClosedJaxpr
    places: tuple[int, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __call__(self, row: Sequence[Any], *args: Any) -> list[Any]:
        """The flat results for flat arguments, with these numbers."""
        given = dict(zip(self.places, row, strict=True))
        numbers = (given.get(i, x) for i, x in enumerate(_numbers(self.program)))
        return _run(self.program, numbers, args)


def merged(programs: Sequence[ClosedJaxpr]) -> Merged:
    """Makes one program of several.

    Raises:
      Different: as :func:`compare`.
    """
    first = programs[0]
    for other in programs[1:]:
        compare(first, other)
    found = [list(_numbers(x)) for x in programs]
    places = tuple(i for i, x in enumerate(zip(*found, strict=True)) if not _all_equal(x))
    rows = tuple(tuple(numbers[i] for i in places) for numbers in found)
    return Merged(first, places, rows)


def _all_equal(numbers: Sequence[Any]) -> bool:
    return all(x.tobytes() == numbers[0].tobytes() for x in numbers[1:])


def _is_number(x: Any) -> bool:
    return isinstance(x, Literal) and np.ndim(x.val) == 0


def _body(eqn: Any) -> ClosedJaxpr | None:
    """What a call calls; None for everything that is no call."""
    name = _CALLS.get(eqn.primitive.name)
    body = None if name is None else eqn.params[name]
    return ClosedJaxpr(body, ()) if isinstance(body, Jaxpr) else body


def _numbers(program: ClosedJaxpr) -> Iterator[np.ndarray]:
    """Every number of a program, in order; of loops and branches none."""
    jaxpr = program.jaxpr
    yield from (np.asarray(x) for x in program.consts if np.ndim(x) == 0)
    for eqn in jaxpr.eqns:
        yield from (np.asarray(x.val, x.aval.dtype) for x in eqn.invars if _is_number(x))
        if (body := _body(eqn)) is not None:
            yield from _numbers(body)
    yield from (np.asarray(x.val, x.aval.dtype) for x in jaxpr.outvars if _is_number(x))


def _run(program: ClosedJaxpr, numbers: Iterator[Any], args: Sequence[Any]) -> list[Any]:
    jaxpr = program.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
    for var, value in zip(jaxpr.constvars, program.consts, strict=True):
        known[var] = next(numbers) if np.ndim(value) == 0 else value

    def read(x: Any) -> Any:
        if _is_number(x):
            return next(numbers)
        return x.val if isinstance(x, Literal) else known[x]

    for eqn in jaxpr.eqns:
        values = [read(x) for x in eqn.invars]
        if (body := _body(eqn)) is not None:
            found = _run(body, numbers, values)
        else:
            found = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
            found = found if eqn.primitive.multiple_results else [found]
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(x) for x in jaxpr.outvars]


def compare(one: ClosedJaxpr, other: ClosedJaxpr, *, exact: bool = False) -> None:
    """Whether two programs are the same but for numbers.

    Args:
      one, other: the programs.
      exact: whether numbers must be the same, too, as they must inside of a loop.

    Raises:
      Different: they are not.
    """
    a, b = one.jaxpr, other.jaxpr
    names: dict[Any, Any] = {}

    def same_atom(x: Any, y: Any) -> bool:
        if isinstance(x, Literal) or isinstance(y, Literal):
            kinds = isinstance(x, Literal) and isinstance(y, Literal) and x.aval == y.aval
            free = not exact and _is_number(x)
            return kinds and (free or np.array_equal(x.val, y.val, equal_nan=True))
        return names.get(x) is y

    def define(xs: Sequence[Any], ys: Sequence[Any]) -> bool:
        names.update(zip(xs, ys, strict=False))
        return [x.aval for x in xs] == [y.aval for y in ys]

    if not define([*a.constvars, *a.invars], [*b.constvars, *b.invars]):
        raise Different("arrays have other shapes or types")
    for x, y in zip(one.consts, other.consts, strict=True):
        if (exact or np.ndim(x)) and not np.array_equal(x, y):
            raise Different("an array of constants differs")
    for p, q in zip(a.eqns, b.eqns, strict=False):
        if p.primitive is not q.primitive:
            raise Different(f"where one computes `{p.primitive}`, another computes `{q.primitive}`")
        if not (define(p.outvars, q.outvars) and len(p.invars) == len(q.invars)):
            raise Different(f"`{p.primitive}` has results of other shapes or types")
        if not all(map(same_atom, p.invars, q.invars)):
            inside = " inside of a loop" if exact else ""
            raise Different(f"`{p.primitive}`{inside} takes other operands")
        _compare_settings(p, q, exact)
    if len(a.eqns) != len(b.eqns) or not all(map(same_atom, a.outvars, b.outvars)):
        raise Different("one computes more than another")


def _compare_settings(p: Any, q: Any, exact: bool) -> None:
    body, other = _body(p), _body(q)
    if body is not None and other is not None:
        compare(body, other, exact=exact)
        if p.primitive.name.startswith("custom_"):
            return  # the rest says how to take derivatives, which have been taken
    inner = [k for k, x in p.params.items() if isinstance(x, (Jaxpr, ClosedJaxpr))]
    for key in p.params:
        x, y = p.params[key], q.params.get(key)
        if body is not None and key == _CALLS[p.primitive.name]:
            continue
        if inner and callable(x) and callable(y):
            continue  # what the inner program was traced from
        pairs = [(x, y)]
        if isinstance(x, tuple) and isinstance(y, tuple) and len(x) == len(y):
            pairs = list(zip(x, y, strict=True))
        for u, v in pairs:
            if isinstance(u, (Jaxpr, ClosedJaxpr)) and type(u) is type(v):
                closed = [ClosedJaxpr(w, ()) if isinstance(w, Jaxpr) else w for w in (u, v)]
                compare(*closed, exact=True)
            elif u is not v and not (type(u) is type(v) and u == v):
                raise Different(f"`{p.primitive}` has another {key}: {u} and {v}")
