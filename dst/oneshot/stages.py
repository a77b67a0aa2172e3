"""Stages: a forward pass cut between groups of matrices, where little is alive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend.core import Var

from dst.core import checks, tree
from dst.core.roles import Role
from dst.core.text import aligned
from dst.core.typing import Batch, Params, PyTree
from dst.flops.products import shape
from dst.oneshot.flatten import DATA
from dst.oneshot.graph import Graph, Use, size_bytes
from dst.oneshot.products import Reading
from dst.oneshot.views import Base, Place, bases, places

BLOCKS = ("auto", "matrix")
_NEAR = 4  # gaps to each side among which a cut has the fewest values alive


@dataclass(frozen=True)
class Source:
    """Rows that enter one matrix or several: ``data`` as ``reading`` reads it."""

    data: tuple[Var, ...]
    reading: Reading
    groups: int
    inputs: int


@dataclass(frozen=True)
class Piece:
    """Weights that are pruned as matrices of their own.

    Attributes:
      name: the leaf path, with the slice where the leaf stacks several.
      base: the leaf, or the row of it, that has the weights.
      place: where they stand in a kernel.
      reads: for each product that consumes it, the number of the source in the stage, and which
        groups and inputs of it; None: all.
    """

    name: str
    base: Base
    place: Place
    reads: tuple[tuple[int, Any, Any], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(groups, inputs, outputs)``."""
        return self.place.shape


@dataclass(frozen=True)
class Stage:
    """One part of the forward pass, and the matrices whose inputs it computes.

    Attributes:
      sources: rows that enter matrices.
      pieces: the matrices.
      live_in, live_out: values of data that it takes from the stage before, and hands on.
    """

    sources: tuple[Source, ...]
    pieces: tuple[Piece, ...]
    live_in: tuple[Var, ...]
    live_out: tuple[Var, ...]

    @property
    def live_bytes(self) -> int:
        """Bytes per batch of the values that it takes."""
        return sum(map(size_bytes, self.live_in))

    @property
    def gram_bytes(self) -> int:
        """Bytes of one float32 Gram matrix per source."""
        return sum(4 * s.groups * s.inputs**2 for s in self.sources)


@dataclass(frozen=True)
class StagePlan:
    """How a forward pass is calibrated; printed, it is a table. Nothing has run yet.

    Attributes:
      stages: in the order in which they run.
      graph: of the forward pass.
      bases: the variables that hold leaves or rows of them.
    """

    stages: tuple[Stage, ...]
    graph: Graph = field(repr=False)
    bases: Mapping[Var, Base] = field(repr=False)

    def __str__(self) -> str:
        rows = [("stage", "leaves", "live bytes", "Gram bytes")]
        for number, stage in enumerate(self.stages):
            names = ", ".join(piece.name for piece in stage.pieces)
            rows.append((str(number), names, f"{stage.live_bytes:,}", f"{stage.gram_bytes:,}"))
        return "\n".join(aligned(rows, left=2))


def stages(
    forward: Callable[[Params, Batch], PyTree],
    params: Params,
    batch: Batch,
    *,
    select: tree.Select | None = None,
    stacked: Mapping[str, int] | None = None,
    roles: Mapping[str, Role] | None = None,
    blocks: str = "auto",
) -> StagePlan:
    """The plan by which :func:`dst.prune` calibrates: traced only, nothing is computed.

    The forward pass is cut where the fewest values are alive between two matrices: in a
    transformer, where only the residual stream is. Memory then holds one stage.

    Args:
      forward: ``forward(params, batch)``, of any library.
      params: pytree of arrays, or of ``jax.ShapeDtypeStruct``.
      batch: pytree of arrays or shapes.
      select, stacked, roles: as for :func:`dst.sparsify`: which leaves.
      blocks: ``auto``, or ``matrix``: a stage per group of matrices with the same input.

    Returns:
      The plan; ``print`` shows stages, leaves, live bytes per batch and bytes of Gram matrices.

    Raises:
      ValueError: a chosen leaf that no product consumes, or that is consumed in another way,
        naming the leaf and the primitive.

    Example:
      >>> import dst, jax, jax.numpy as jnp
      >>> params = {"a": jnp.ones((8, 4)), "b": jnp.ones((4, 2))}
      >>> forward = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
      >>> print(dst.stages(forward, params, jnp.ones((16, 8))))
      stage  leaves  live bytes  Gram bytes
      0      a              512         256
      1      b              256          64

    Checked against: Gram matrices in NumPy (``tests/oneshot/test_calibrate.py``).
    """
    leaves = tree.survey(params, select=select, stacked=stacked, roles=roles)
    return plan(forward, params, batch, [x.path for x in leaves if x.sparse], blocks)


def plan(
    forward: Callable[[Params, Batch], PyTree],
    params: Params,
    batch: Batch,
    chosen: Collection[str],
    blocks: str = "auto",
) -> StagePlan:
    """As :func:`stages`, for leaves by path."""
    checks.one_of("blocks", blocks, BLOCKS)
    graph = Graph(forward, params, batch, chosen)
    targets = [x for use in graph.uses for x in (use.kernel, *use.data)]
    targets += graph.results()
    steps = graph.steps(targets, ())
    found = bases(graph, steps, targets)
    known: dict[str, list[Place | None]] = {}
    where = [places(graph, use, found, known) for use in graph.uses]
    _check_whole(where)
    cuts = _cuts(graph, steps, where, blocks)
    return StagePlan(tuple(_stages(graph, steps, where, cuts)), graph, found)


_Places = Sequence[Sequence[tuple[Base, Place]]]  # of each use


def _check_whole(where: _Places) -> None:
    """Raises unless all weights of a leaf reach products."""
    distinct: dict[Base, dict[str, int]] = {}
    for base, place in (pair for pairs in where for pair in pairs):
        distinct.setdefault(base, {})[place.key] = place.size
    for base, rectangles in distinct.items():
        total = sum(rectangles.values())
        if total > base.size:
            raise ValueError(
                f"{base.name}: expected all products that consume it to read its axes as the same "
                "inputs and outputs, found several ways (a matrix and its transpose?). Leave the "
                f"leaf out: select=['!{base.path}']."
            )
        if total < base.size:
            raise ValueError(
                f"{base.name}: expected products to consume all of its {base.size} weights, found "
                f"{total}. Leave the leaf out: select=['!{base.path}']."
            )


def _lifetimes(graph: Graph, steps: Sequence[int]) -> dict[Var, list[int]]:
    """The first and the last equation that has each value of data; -1 for the batch."""
    life = {var: [-1, -1] for var in graph.batch_vars}
    for at in steps:
        eqn = graph.eqns[at]
        for var in graph.operands(eqn):
            if graph.kind[var] == DATA:
                life[var][1] = max(life[var][1], at)
        for out in eqn.outvars:
            if graph.kind[out] == DATA:
                life[out] = [at, at]
    for use in graph.uses:
        for var in use.data:
            life[var][1] = max(life[var][1], use.at)
    for var in graph.results():
        life[var][1] = len(graph.eqns)
    return life


def _cuts(graph: Graph, steps: Sequence[int], where: _Places, blocks: str) -> list[int]:
    """The numbers of the equations after which a stage ends."""
    uses = sorted(graph.uses, key=lambda use: use.at)
    life = _lifetimes(graph, steps)
    alive = np.zeros((len(graph.eqns) + 1, 2), np.int64)  # after each equation: values, bytes
    for var, (first, last) in life.items():
        if last > first:
            alive[max(first, 0) : last] += (1, size_bytes(var))
    gaps = []
    for before, after in zip(uses, uses[1:], strict=False):
        between = range(before.at, after.at)
        at = min(between, key=lambda t: (*alive[t], t))
        gaps.append((int(alive[at][0]), at))
    joined = _joined(uses, graph.uses, where)
    cuts = []
    for i, (count, at) in enumerate(gaps):
        near = gaps[max(i - _NEAR, 0) : i + _NEAR + 1]
        fewest = blocks == "matrix" or count <= min(n for n, _ in near)
        together = uses[i].source == uses[i + 1].source or i in joined
        if fewest and not together:
            cuts.append(at)
    return cuts


def _joined(uses: Sequence[Use], order: Sequence[Use], where: _Places) -> set[int]:
    """Gaps between the first and the last product that consumes the same weights."""
    span: dict[Base, list[int]] = {}
    for use, pairs in zip(order, where, strict=True):
        for base, _ in pairs:
            span.setdefault(base, []).append(uses.index(use))
    return {i for at in span.values() for i in range(min(at), max(at))}


def _stages(graph: Graph, steps: Sequence[int], where: _Places, cuts: Sequence[int]) -> list[Stage]:
    life = _lifetimes(graph, steps)
    result, start = [], -1
    for end in (*cuts, len(graph.eqns)):
        numbers: dict[Any, int] = {}
        sources: list[Source] = []
        reads: dict[tuple[Base, str], list[tuple[int, Any, Any]]] = {}
        first: dict[tuple[Base, str], Place] = {}
        for use, pairs in zip(graph.uses, where, strict=True):
            if not start < use.at <= end:
                continue
            if use.source not in numbers:
                numbers[use.source] = len(sources)
                sources.append(Source(use.data, use.reading, *_extent(use)))
            for base, place in pairs:
                first.setdefault((base, place.key), place)
                read = (numbers[use.source], place.groups, place.inputs)
                reads.setdefault((base, place.key), []).append(read)
        pieces = _pieces(first, reads)
        alive = [tuple(_alive(life, at)) for at in (start, end)]
        result.append(Stage(tuple(sources), tuple(pieces), *alive))
        start = end
    return result


def _pieces(
    first: Mapping[tuple[Base, str], Place],
    reads: Mapping[tuple[Base, str], list[tuple[int, Any, Any]]],
) -> list[Piece]:
    parts: dict[Base, list[str]] = {}
    for base, key in first:
        parts.setdefault(base, []).append(key)
    result = []
    for (base, key), place in first.items():
        number, of = parts[base].index(key) + 1, len(parts[base])
        name = base.name if of == 1 else f"{base.name} ({number} of {of})"
        result.append(Piece(name, base, place, tuple(reads[base, key])))
    return result


def _extent(use: Use) -> tuple[int, int]:
    """Groups and inputs of a product."""
    groups, inputs, _ = use.reading.matrix(np.empty(shape(use.kernel), bool)).shape
    return groups, inputs


def _alive(life: Mapping[Var, Sequence[int]], at: int) -> list[Var]:
    """The values of data that exist between an equation and the next."""
    return [var for var, (first, last) in life.items() if first <= at < last]
