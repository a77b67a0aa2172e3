"""Groups of units: hidden neurons, channels or heads, and the weights that go with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn, Var

from dst.core import jaxprs, tree
from dst.core.text import aligned
from dst.core.typing import Batch, Params, PyTree
from dst.flops.products import shape
from dst.oneshot.flatten import DATA, WEIGHTS, flattened
from dst.oneshot.structured.labels import KEPT
from dst.oneshot.structured.propagation import Axis, Propagation, Value, uniform
from dst.oneshot.views import row_of


@dataclass(frozen=True)
class Member:
    """The part that one leaf has in a group.

    Attributes:
      path: of the leaf.
      row: of its leading axis, where that enumerates layers; None: the whole leaf.
      axis: that has the units; of a row, counted without the leading axis.
      positions: int ``[units, n]``: those of the axis that a unit has.
      consumes: whether products sum over this axis: the weights that read the units.
    """

    path: str
    row: int | None
    axis: int
    positions: np.ndarray
    consumes: bool = False

    @property
    def name(self) -> str:
        """The leaf path, and the slice: ``blocks/kernel[3]``."""
        return self.path if self.row is None else f"{self.path}[{self.row}]"


@dataclass(frozen=True)
class Group:
    """Units of which each can be removed from all leaves that have a part of it.

    Attributes:
      name: of the leaf that computes them first.
      members: the parts of leaves.
      runs: of consecutive units that must stay equally long, such as the queries of one key.
    """

    name: str
    members: tuple[Member, ...]
    runs: int = 1

    @property
    def units(self) -> int:
        """How many."""
        return len(self.members[0].positions)


@dataclass(frozen=True)
class Groups:
    """Groups by name; printed, they are a table."""

    by_name: Mapping[str, Group] = field(repr=False)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)

    def __getitem__(self, name: str) -> Group:
        return self.by_name[name]

    def __str__(self) -> str:
        rows = [("group", "read by", "others", "units")]
        for group in self:
            read = [x.name for x in group.members if x.consumes]
            rest = [x.name for x in group.members if not x.consumes and x.name != group.name]
            rows.append((group.name, ", ".join(read), ", ".join(rest), str(group.units)))
        return "\n".join(aligned(rows, left=3))


def channel_groups(
    forward: Callable[[Params, Batch], PyTree], params: Params, batch: Batch
) -> Groups:
    """The units of a network that can be removed, each with its weights in all leaves.

    The program is traced once; nothing is computed. Positions of axes that an operation brings
    together form one unit: the column of a kernel, its bias, and the row of the kernel that reads
    it. Removing the unit leaves a smaller dense network with the outputs that the network has when
    these weights are zero.

    Not removable are positions of inputs and results, axes that a reduction, a slice or a constant
    array meets (so the residual stream of a network with norms), channels of grouped convolutions,
    and all that reaches an operation that is not known. Where an axis is split, as into heads, the
    first part has the units: of grouped queries these are keys with all of their queries.

    Args:
      forward: ``forward(params, batch)``, of any library. It must compute its sizes from the
        arrays, as ``reshape(n, -1)`` does.
      params: pytree of arrays or of ``jax.ShapeDtypeStruct``. Running statistics belong in it, too.
      batch: pytree of arrays or shapes.

    Returns:
      The groups, in the order of the parameters. ``print`` shows them.

    Example:
      >>> import dst, jax, jax.numpy as jnp
      >>> params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2)), "bias": jnp.ones(8)}
      >>> forward = lambda p, x: jnp.tanh(x @ p["a"] + p["bias"][None]) @ p["b"]
      >>> print(dst.channel_groups(forward, params, jnp.ones((4, 3))))
      group  read by  others  units
      a      b        bias        8

    References: dependency graphs, Fang et al. 2023, DepGraph (arXiv 2301.12900); coupled structures
    of language models, Ma et al. 2023, LLM-Pruner (2305.11627).
    Checked against: outputs of smaller and of masked networks,
    tests/oneshot/structured/test_groups.py.
    """
    paths, leaves, _ = tree.flatten(params)
    tree.check_arrays(paths, leaves)
    traced = jax.make_jaxpr(forward)(params, batch)
    kinds = [WEIGHTS] * len(paths) + [DATA] * (len(traced.in_avals) - len(paths))
    program = flattened(traced, kinds)
    walk = _Walk(paths, program.jaxpr)
    results = jaxprs.interpret(
        program,
        [walk.input(i) for i in range(len(kinds))],
        walk.equation,
        literal=lambda x: uniform(x, KEPT),
        constant=lambda x: tuple(Axis(np.full(n, KEPT)) for n in np.shape(x)),
    )
    for result in results:
        walk.rules.keep(result)
    return Groups({group.name: group for group in walk.groups()})


_Part = tuple[int, int | None]  # a leaf, and a row of it


class _Walk:
    """Labels of all leaves of a program, or of their rows, while it is walked through."""

    def __init__(self, paths: list[str], jaxpr: Any):
        self.rules = Propagation()
        self._paths, self._vars = paths, jaxpr.invars
        number = {var: i for i, var in enumerate(jaxpr.invars[: len(paths)])}
        rows: dict[int, list[int | None]] = {}
        for eqn in jaxpr.eqns:
            for x in eqn.invars:
                if isinstance(x, Var) and x in number:
                    rows.setdefault(number[x], []).append(row_of(eqn))
        outputs = {number[x] for x in jaxpr.outvars if isinstance(x, Var) and x in number}
        self._by_row = {i for i, found in rows.items() if None not in found} - outputs
        self._leaf_of = number
        self._parts: dict[_Part, Value] = {}

    def input(self, i: int) -> Value:
        """The labels of an input of the program."""
        if i >= len(self._paths):
            return tuple(x._replace(data=True) for x in uniform(self._vars[i], KEPT))
        if i in self._by_row:
            return uniform(self._vars[i], KEPT)
        return self._part((i, None), shape(self._vars[i]))

    def equation(self, eqn: JaxprEqn, operands: list[Value]) -> list[Value]:
        """The results of an equation; a row of a leaf has labels of its own."""
        first = eqn.invars[0] if eqn.invars else None
        leaf = self._leaf_of.get(first) if isinstance(first, Var) else None
        if leaf is None or leaf not in self._by_row:
            return self.rules(eqn, operands)
        one, *rest = shape(eqn.outvars[0])
        return [(Axis(np.full(one, KEPT)), *self._part((leaf, row_of(eqn)), tuple(rest)))]

    def _part(self, part: _Part, sizes: tuple[int, ...]) -> Value:
        if part not in self._parts:
            new = self.rules.labels.new
            self._parts[part] = tuple(Axis(new(n), zero=True) for n in sizes)
        return self._parts[part]

    def groups(self) -> list[Group]:
        """Units that have parts in the same axes, by the order of the leaves."""
        labels = self.rules.labels
        where: dict[int, dict[tuple[_Part, int], list[int]]] = {}
        consumed: set[tuple[_Part, int]] = set()
        read = self.rules.consumed()
        for part, axes in sorted(self._parts.items(), key=lambda x: (x[0][0], x[0][1] or 0)):
            for i, axis in enumerate(axes):
                names = axis.labels.tolist()
                if not read.isdisjoint(names):
                    consumed.add((part, i))
                for position, label in enumerate(names):
                    if (root := labels.root(label)) != KEPT:
                        where.setdefault(root, {}).setdefault((part, i), []).append(position)
        alike: dict[Any, list[dict[tuple[_Part, int], list[int]]]] = {}
        for unit in where.values():
            key = tuple((axis, len(positions)) for axis, positions in unit.items())
            alike.setdefault(key, []).append(unit)
        found: list[Group] = []
        for key, units in alike.items():
            axes_of_unit = [axis for axis, _ in key]
            reads = [axis in consumed for axis in axes_of_unit]
            if all(reads) or not any(reads):
                continue
            members = tuple(
                Member(self._paths[leaf], row, i, np.array([u[(leaf, row), i] for u in units]), x)
                for ((leaf, row), i), x in zip(axes_of_unit, reads, strict=True)
            )
            name = self._name(members)
            same = sum(x.name.partition(" ")[0] == name for x in found)
            found.append(Group(f"{name} ({same + 1})" if same else name, members))
        return found

    def _name(self, members: tuple[Member, ...]) -> str:
        """Of the first leaf with most axes among those that compute the units."""
        rank = {p: len(shape(v)) for p, v in zip(self._paths, self._vars, strict=False)}
        own = [x for x in members if not x.consumes]
        return max(own, key=lambda x: rank[x.path]).name
