"""Programs that are the same but for numbers, as one program that takes the numbers as data.

JAX traces the steps of two trials. Where the traces differ in scalar constants only, both can train
in one program: the constants become arguments, one row per trial, and ``jax.vmap`` does the rest.
So no list says which settings are such numbers. A learning rate is one, or a weight decay. A layer
width or another optimizer is not, and the comparison names the operation that differs. Seed,
sparsity, drop fraction and update schedule lie in the training state: they are data anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from dst.core import jaxprs
from dst.core.jaxprs import Atom
from dst.core.typing import Array

Value = Array | np.ndarray | float | int | bool


class Different(ValueError):
    """Programs that cannot be merged; the text says where they differ."""


@dataclass(frozen=True)
class Merged:
    """One program for several.

    Attributes:
      program: the trace of the first.
      places: of those of its numbers that are arguments now, in the order of the program.
      rows: these numbers, a tuple per program.
    """

    program: ClosedJaxpr
    places: tuple[int, ...]
    rows: tuple[tuple[np.ndarray, ...], ...]

    def __call__(self, row: Sequence[Value], *args: Value) -> list[Value]:
        """The flat results for flat arguments, with these numbers."""
        replaced = dict(zip(self.places, row, strict=True))
        numbers = (replaced.get(i, x) for i, x in enumerate(_numbers(self.program)))
        return _run(self.program, numbers, args)


def merged(programs: Sequence[ClosedJaxpr]) -> Merged:
    """Merges several programs into one.

    Raises:
      Different: as :func:`compare`.
    """
    first, *others = different = {id(x): x for x in programs}.values()
    for other in others:
        compare(first, other)
    numbers = {id(x): list(_numbers(x)) for x in different}
    each = enumerate(zip(*numbers.values(), strict=True))
    places = tuple(i for i, x in each if not _all_equal(x))
    rows = tuple(tuple(numbers[id(x)][i] for i in places) for x in programs)
    return Merged(first, places, rows)


def _all_equal(numbers: Sequence[np.ndarray]) -> bool:
    return all(x.tobytes() == numbers[0].tobytes() for x in numbers[1:])


def _is_number(x: Atom) -> TypeGuard[Literal]:
    return isinstance(x, Literal) and np.ndim(x.val) == 0


def _numbers(program: ClosedJaxpr) -> Iterator[np.ndarray]:
    """Every number of a program, in order, without those inside loops and branches."""
    jaxpr = program.jaxpr
    yield from (np.asarray(x) for x in program.consts if np.ndim(x) == 0)
    for eqn in jaxpr.eqns:
        yield from _literals(eqn.invars)
        if (body := jaxprs.body(eqn)) is not None:
            yield from _numbers(body)
    yield from _literals(jaxpr.outvars)


def _literals(atoms: Sequence[Atom]) -> Iterator[np.ndarray]:
    yield from map(jaxprs.number, filter(_is_number, atoms))


def _run(program: ClosedJaxpr, numbers: Iterator[Value], args: Sequence[Value]) -> list[Value]:
    def equation(eqn: JaxprEqn, values: list[Value]) -> list[Value]:
        body = jaxprs.body(eqn)
        return jaxprs.bind(eqn, values) if body is None else _run(body, numbers, values)

    return jaxprs.interpret(
        program,
        args,
        equation,
        literal=lambda x: next(numbers) if _is_number(x) else x.val,
        constant=lambda x: next(numbers) if np.ndim(x) == 0 else x,
    )


def compare(one: ClosedJaxpr, other: ClosedJaxpr, *, exact: bool = False) -> None:
    """Checks that two programs differ in numbers only.

    Args:
      one, other: the programs.
      exact: whether numbers must be equal, too, as inside of a loop.

    Raises:
      Different: they differ in more.
    """
    a, b = one.jaxpr, other.jaxpr
    names: dict[Var, Var] = {}

    def same_atom(x: Atom, y: Atom) -> bool:
        if isinstance(x, Literal) and isinstance(y, Literal):
            free = not exact and _is_number(x)
            return x.aval == y.aval and (free or np.array_equal(x.val, y.val, equal_nan=True))
        return isinstance(x, Var) and names.get(x) is y

    def define(xs: Sequence[Var], ys: Sequence[Var]) -> bool:
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


def _compare_settings(p: JaxprEqn, q: JaxprEqn, exact: bool) -> None:
    body, other = jaxprs.body(p), jaxprs.body(q)
    if body is not None and other is not None:
        compare(body, other, exact=exact)
        if jaxprs.has_derivatives(p):
            return  # the other parameters are rules of derivatives, which are not taken any more
    inner = [k for k, x in p.params.items() if isinstance(x, (Jaxpr, ClosedJaxpr))]
    for key in p.params:
        x, y = p.params[key], q.params.get(key)
        if key == jaxprs.body_key(p):
            continue
        if inner and callable(x) and callable(y):
            continue  # the function from which the inner program was traced
        pairs = [(x, y)]
        if isinstance(x, tuple) and isinstance(y, tuple) and len(x) == len(y):
            pairs = list(zip(x, y, strict=True))
        for u, v in pairs:
            if isinstance(u, Jaxpr | ClosedJaxpr) and isinstance(v, type(u)):
                compare(jaxprs.closed(u), jaxprs.closed(v), exact=True)
            elif u is not v and not (type(u) is type(v) and u == v):
                raise Different(f"`{p.primitive}` has another {key}: {u} and {v}")
