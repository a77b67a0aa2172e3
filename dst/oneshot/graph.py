"""What a forward pass does with the chosen leaves: its products, and the views that they read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from dst.core import jaxprs, tree
from dst.core.typing import Batch, Params, PyTree
from dst.flops.products import PRODUCTS, shape
from dst.oneshot.flatten import CONSTANT, DATA, WEIGHTS, flattened
from dst.oneshot.products import Reading, reading

# What a view may consist of: every element of the result is an element of an operand.
VIEW = jaxprs.LAYOUT | frozenset("concatenate dynamic_slice gather pad".split())


@dataclass(frozen=True)
class Use:
    """One product that consumes chosen leaves.

    Attributes:
      at: number of its equation.
      kernel: the variable that is a view of the leaves.
      data: the variables that its rows are read from.
      reading: how it reads them.
      leaves: numbers of the chosen leaves in the kernel.
      source: equal where the rows are equal.
    """

    at: int
    kernel: Var
    data: tuple[Var, ...]
    reading: Reading
    leaves: frozenset[int]
    source: Any


class Graph:
    """The flat program of ``forward(params, batch)``, and where its values come from.

    Args:
      forward: of any library.
      params: pytree of arrays or shapes.
      batch: pytree of arrays or shapes.
      chosen: paths of the leaves of interest.

    Raises:
      ValueError: a chosen leaf that no product consumes, or that something else consumes, naming
        the leaf and the primitive.
    """

    def __init__(
        self,
        forward: Callable[[Params, Batch], PyTree],
        params: Params,
        batch: Batch,
        chosen: Collection[str],
    ):
        self.paths, self.leaves, _ = tree.flatten(params)
        program = jax.make_jaxpr(forward)(params, batch)
        kinds = [WEIGHTS if p in chosen else CONSTANT for p in self.paths]
        kinds += [DATA] * (len(program.in_avals) - len(kinds))
        self.program = flattened(program, kinds)
        jaxpr = self.program.jaxpr
        self.eqns: Sequence[JaxprEqn] = jaxpr.eqns
        self.leaf_vars = jaxpr.invars[: len(self.paths)]
        self.batch_vars = jaxpr.invars[len(self.paths) :]
        self.kind: dict[Var, int] = dict.fromkeys(jaxpr.constvars, CONSTANT)
        self.kind.update(zip(jaxpr.invars, kinds, strict=True))
        self.producer: dict[Var, int] = {}
        # The chosen leaves behind a value that depends on them but not on data.
        self.behind: dict[Var, frozenset[int]] = {
            var: frozenset([i]) for i, var in enumerate(self.leaf_vars) if self.kind[var] == WEIGHTS
        }
        self.uses: list[Use] = []
        self._other: dict[int, str] = {}  # primitives that consume a leaf in another way
        same: dict[Any, Var] = {}  # the first variable that holds a value
        for i, eqn in enumerate(self.eqns):
            self._visit(i, eqn, same)
        self._check(chosen)

    def operands(self, eqn: JaxprEqn) -> list[Var]:
        """The variables that an equation reads."""
        return [x for x in eqn.invars if not isinstance(x, Literal)]

    def _visit(self, at: int, eqn: JaxprEqn, same: dict[Any, Var]) -> None:
        variables = self.operands(eqn)
        kind = max((self.kind[x] for x in variables), default=CONSTANT)
        for out in eqn.outvars:
            self.kind[out], self.producer[out] = kind, at
        weights = [x for x in variables if self.kind[x] == WEIGHTS]
        if kind == WEIGHTS:
            everything = frozenset().union(*(self.behind[x] for x in weights))
            self.behind.update(dict.fromkeys(eqn.outvars, everything))
        elif kind == DATA and weights:
            self._consumed(at, eqn, weights, same)
        elif kind == DATA and eqn.primitive.name in jaxprs.LAYOUT and len(eqn.invars) == 1:
            key = (eqn.primitive.name, same.get(variables[0], variables[0]), str(eqn.params))
            same[eqn.outvars[0]] = same.setdefault(key, eqn.outvars[0])

    def _consumed(self, at: int, eqn: JaxprEqn, weights: list[Var], same: dict[Any, Var]) -> None:
        name = eqn.primitive.name
        sides = [i for i, x in enumerate(eqn.invars) if any(x is w for w in weights)]
        found = reading(eqn, sides[0]) if name in PRODUCTS and len(sides) == 1 else None
        if found is None:
            self._other |= {leaf: name for w in weights for leaf in self.behind[w]}
            return
        (kernel,) = weights
        data = tuple(self._variable(eqn, i) for i in found.data)
        source = (tuple(same.get(x, x) for x in data), found.key)
        self.uses.append(Use(at, kernel, data, found, self.behind[kernel], source))

    def _variable(self, eqn: JaxprEqn, operand: int) -> Var:
        var = eqn.invars[operand]
        assert not isinstance(var, Literal)
        return var

    def _check(self, chosen: Collection[str]) -> None:
        used = frozenset().union(*(use.leaves for use in self.uses)) if self.uses else frozenset()
        for i, path in enumerate(self.paths):
            if path not in chosen:
                continue
            if i in self._other:
                raise ValueError(
                    f"{path}: expected a matrix product or a convolution to consume it, found "
                    f"`{self._other[i]}`, which is not looked into. Leave the leaf out: "
                    f"select=['!{path}'], or write this part of the model with products."
                )
            if i not in used:
                raise ValueError(
                    f"{path}: expected a product of the forward pass to consume it, found none: "
                    f"the batch does not meet it. Leave the leaf out: select=['!{path}']."
                )
        for use in self.uses:
            for at in self.steps([use.kernel], ()):
                name, out = self.eqns[at].primitive.name, self.eqns[at].outvars[0]
                if self.kind[out] == WEIGHTS and name not in VIEW:
                    path = self.paths[min(self.behind[out])]
                    raise ValueError(
                        f"{path}: expected it to reach its product unchanged but for its layout, "
                        f"found `{name}` on the way. Fold this into the leaf, or leave the leaf "
                        f"out: select=['!{path}']."
                    )

    def results(self) -> list[Var]:
        """The results of the forward pass that depend on its last product.

        What they need is alive until the end, so that the last block is cut as the others are.
        Results of earlier blocks (caches) do not matter.
        """
        if not self.uses:
            return []
        reached = set(self.eqns[self.uses[-1].at].outvars)
        for eqn in self.eqns[self.uses[-1].at :]:
            if not reached.isdisjoint(self.operands(eqn)):
                reached |= set(eqn.outvars)
        return [x for x in self.program.jaxpr.outvars if isinstance(x, Var) and x in reached]

    def steps(self, targets: Iterable[Var], sources: Collection[Var]) -> list[int]:
        """Numbers of the equations that compute variables from given ones, ascending."""
        found: set[int] = set()
        waiting = [x for x in targets if x not in sources]
        while waiting:
            at = self.producer.get(waiting.pop())
            if at is None or at in found:
                continue
            found.add(at)
            waiting += [x for x in self.operands(self.eqns[at]) if x not in sources]
        return sorted(found)

    def inputs(self, steps: Iterable[int], targets: Iterable[Var]) -> list[Var]:
        """Variables that equations and targets need and that the equations do not compute."""
        computed, needed = set(), {}
        for at in steps:
            needed.update(dict.fromkeys(self.operands(self.eqns[at])))
            computed |= set(self.eqns[at].outvars)
        needed.update(dict.fromkeys(targets))
        return [x for x in needed if x not in computed]

    @cached_property
    def constants(self) -> dict[Var, Any]:
        """The constants of the program."""
        return dict(zip(self.program.jaxpr.constvars, self.program.consts, strict=True))

    def part(self, sources: Sequence[Var], targets: Sequence[Var]) -> ClosedJaxpr:
        """The part of the program that computes some variables from others."""
        steps = self.steps(targets, set(sources))
        return jaxprs.closed(jaxprs.between(self.program, sources, targets, steps))


def size_bytes(var: Var) -> int:
    """Bytes of a value."""
    aval: Any = var.aval
    count = 1
    for n in shape(var):
        count *= n
    return count * aval.dtype.itemsize
