"""Calibration: the forward pass stage by stage, over all batches, with one stage in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Var

from dst.core import checks, jaxprs, tree
from dst.core.roles import Role
from dst.core.typing import Array, ArrayLike, Batch, Params, PyTree
from dst.oneshot.flatten import DATA
from dst.oneshot.stages import Piece, Source, Stage, StagePlan, plan
from dst.oneshot.statistics import NEEDS, Needs, Statistics, added, empty

Where = Callable[[Batch], ArrayLike]


class Programs:
    """Compiled parts of programs; equal parts of a forward pass are compiled once.

    Attributes:
      compiled: jitted functions by kind and text of the part.
    """

    def __init__(self) -> None:
        self.compiled: dict[tuple[str, ...], Callable[..., Any]] = {}

    def __call__(self, kind: str, part: ClosedJaxpr, make: Callable[..., Any], *more: str) -> Any:
        """The jitted ``make(run)``, where ``run`` evaluates the part."""
        key = (kind, str(part.jaxpr), *more)
        if key not in self.compiled:

            def run(values: Sequence[Any]) -> list[Any]:
                return jaxprs.interpret(part, values, jaxprs.bind)

            self.compiled[key] = make(run)
        return self.compiled[key]


class Walk:
    """A forward pass that is run stage by stage, while its weights change.

    Args:
      plan: of the forward pass.
      leaves: the parameters, in the order of their tree; who prunes replaces them.
      batches: of one shape.
      needs: which statistics.
      where: bool rows that count, of a batch.
      offload: whether what enters the next stage waits on the host.
    """

    def __init__(
        self,
        plan: StagePlan,
        leaves: list[Array],
        batches: Sequence[Batch],
        needs: Needs,
        where: Where | None,
        offload: bool = False,
    ):
        self.plan, self.leaves, self.needs = plan, leaves, needs
        self.programs = Programs()
        self._where = [None if where is None else jnp.asarray(where(x), bool) for x in batches]
        first = plan.stages[0].live_in if plan.stages else ()
        places = {var: i for i, var in enumerate(plan.graph.batch_vars)}
        self._live = [[jax.tree.leaves(x)[places[var]] for var in first] for x in batches]
        self._offload = offload

    def statistics(self, number: int, *, onward: bool = False) -> list[Statistics]:
        """Of every source of a stage, over all batches.

        Args:
          number: of the stage.
          onward: whether its results enter the next stage, as its weights stay what they are; then
            :meth:`advance` is not called.

        Raises:
          ValueError: inputs that are not finite, naming the stage and the leaf.
        """
        stage = self.plan.stages[number]
        onward = onward and number + 1 < len(self.plan.stages)
        targets = [x for source in stage.sources for x in source.data]
        rest = list(stage.live_out) if onward else []
        kind = "statistics, onward" if onward else "statistics"
        run, outside = self._part(kind, stage, [*targets, *rest], self._adding(stage.sources))
        totals = [empty(s.groups, s.inputs, self.needs) for s in stage.sources]
        for i, (live, where) in enumerate(zip(self._live, self._where, strict=True)):
            self._check_rows(stage, where)
            totals, after = run(totals, [*outside, *live], where)
            if onward:
                self._live[i] = jax.device_get(after) if self._offload else after
        for i, total in enumerate(totals):
            if not bool(jnp.isfinite(total.squares).all()):
                name = next(p.name for p in stage.pieces if any(r[0] == i for r in p.reads))
                raise ValueError(
                    f"stage {number}: expected finite inputs of {name}, found NaN or infinity. "
                    "Check the calibration batches and the weights before it."
                )
        return totals

    def advance(self, number: int) -> None:
        """Runs a stage with its weights as they are now; the next stage reads the results."""
        stage = self.plan.stages[number]
        if number + 1 == len(self.plan.stages):
            return

        run, outside = self._part("forward", stage, list(stage.live_out), jax.jit)
        for i, live in enumerate(self._live):
            after = run([*outside, *live])
            self._live[i] = jax.device_get(after) if self._offload else after

    def entered(self) -> list[Any]:
        """What enters the stage that is next, and which rows count, of every batch."""
        return [self._live, self._where]

    def weights(self, piece: Piece) -> Array:
        """float32 ``[groups, inputs, outputs]``."""
        part = piece.base.read(self.leaves[piece.base.leaf])
        return piece.place.matrices(part).astype(jnp.float32)

    def _adding(self, sources: Sequence[Source]) -> Callable[..., Any]:
        def make(run: Callable[[Sequence[Any]], list[Any]]) -> Callable[..., Any]:
            def add(
                totals: list[Statistics], values: Sequence[Any], where: Array | None
            ) -> tuple[list[Statistics], list[Any]]:
                data = iter(run(values))
                sums = [
                    added(total, x.reading, [next(data) for _ in x.data], where)
                    for total, x in zip(totals, sources, strict=True)
                ]
                return sums, list(data)

            return jax.jit(add, donate_argnums=0)

        return make

    def _part(
        self, kind: str, stage: Stage, targets: list[Var], make: Callable[..., Any]
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The compiled part that computes data, and the values from outside that it takes."""
        graph = self.plan.graph
        steps = graph.steps(targets, set(stage.live_in))
        data_steps = [i for i in steps if graph.kind[graph.eqns[i].outvars[0]] == DATA]
        needed = graph.inputs(data_steps, targets)
        outside = [x for x in needed if graph.kind[x] != DATA]
        sources = [*outside, *stage.live_in]
        more = [f"{s.reading.key} {len(s.data)}" for s in stage.sources]
        part = graph.part(sources, targets)
        return self.programs(kind, part, make, *more), self._outside(outside)

    def _outside(self, wanted: Sequence[Var]) -> list[Any]:
        """Values that depend on parameters and constants alone."""
        graph, bases = self.plan.graph, self.plan.bases
        steps = graph.steps(wanted, bases.keys())
        sources = graph.inputs(steps, wanted)
        values = {x: self._value(x) for x in sources}
        computed = [x for x in wanted if x not in values]
        if computed:
            part = graph.part(sources, computed)
            run = self.programs("view", part, jax.jit)
            results = run([values[x] for x in sources])
            values.update(zip(computed, results, strict=True))
        return [values[x] for x in wanted]

    def _value(self, var: Var) -> Any:
        base = self.plan.bases.get(var)
        return self.plan.graph.constants[var] if base is None else base.read(self.leaves[base.leaf])

    def _check_rows(self, stage: Stage, where: Array | None) -> None:
        if where is None:
            return
        for i, source in enumerate(stage.sources):
            rows = source.reading.row_shape
            if rows != where.shape and rows != (where.size,):
                name = next(p.name for p in stage.pieces if any(r[0] == i for r in p.reads))
                raise ValueError(
                    f"where: expected bool rows of shape {rows}, which enter {name}, found "
                    f"{where.shape}. Leave the leaf out, or use no `where`."
                )


def written(leaf: Array, piece: Piece, matrices: Array) -> Array:
    """A leaf with other values at the weights of a piece."""
    part = piece.place.spread(piece.base.read(leaf), matrices)
    return piece.base.write(leaf, part)


def of_piece(piece: Piece, sources: Sequence[Statistics]) -> Statistics:
    """The statistics of a piece: the sum over the products that consume it."""
    first, *others = (sources[i].of(groups, inputs) for i, groups, inputs in piece.reads)
    for other in others:
        first = first.plus(other)
    return first


def as_batches(batches: Iterable[Batch]) -> list[Batch]:
    """The batches as a list.

    Raises:
      ValueError: none, or batches of several shapes.
    """
    found = list(batches)
    if not found:
        raise ValueError("batches: expected at least one batch of calibration data, found none.")

    def shapes(batch: Batch) -> Any:
        return jax.tree.map(lambda x: (np.shape(x), str(jnp.result_type(x))), batch)

    expected = shapes(found[0])
    for number, batch in enumerate(found):
        if shapes(batch) != expected:
            raise ValueError(
                f"batches: expected all of one shape, {expected} of batch 0, found "
                f"{shapes(batch)} of batch {number}. Cut or pad them, and name padding by where=."
            )
    return found


def calibrate(
    forward: Callable[[Params, Batch], PyTree],
    params: Params,
    batches: Iterable[Batch],
    *,
    needs: Needs = "gram",
    where: Where | None = None,
    select: tree.Select | None = None,
    stacked: Mapping[str, int] | None = None,
    roles: Mapping[str, Role] | None = None,
    blocks: str = "auto",
) -> Iterator[dict[str, Statistics]]:
    """What enters every matrix, stage by stage: ``X^T X`` or norms, for a method of one's own.

    Args:
      forward: ``forward(params, batch)``, of any library; only matrices of chosen leaves matter.
      params: pytree of arrays; not changed.
      batches: pytrees of arrays, all of one shape.
      needs: ``gram``, or ``norms`` where squares and sums suffice.
      where: ``where(batch)``: bool, which rows count; of the shape of the axes that enumerate rows,
        such as ``[batch, length]``.
      select, stacked, roles, blocks: as for :func:`dst.stages`.

    Yields:
      Per stage the :class:`dst.oneshot.Statistics` by leaf path; ``path[i]`` for the slices of a
      leaf that a loop over layers reads.

    Raises:
      ValueError: as :func:`dst.stages`; batches of several shapes; inputs that are not finite.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> x = jnp.array([[1.0, 2.0], [3.0, 0.0]])
      >>> (stage,) = dst.calibrate(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 3))}, [x])
      >>> stage["w"].gram[0].tolist()
      [[10.0, 2.0], [2.0, 4.0]]

    Checked against: Gram matrices in NumPy (``tests/oneshot/test_calibrate.py``).
    """
    checks.one_of("needs", needs, NEEDS[1:])
    found = as_batches(batches)
    surveyed = tree.survey(params, select=select, stacked=stacked, roles=roles)
    chosen = [x.path for x in surveyed if x.sparse]
    walk = Walk(
        plan(forward, params, found[0], chosen, blocks),
        tree.flatten(params)[1],
        found,
        needs,
        where,
    )
    return _yielded(walk)


def _yielded(walk: Walk) -> Generator[dict[str, Statistics], None, None]:
    for number, stage in enumerate(walk.plan.stages):
        sources = walk.statistics(number, onward=True)
        yield {piece.name: of_piece(piece, sources) for piece in stage.pieces}
