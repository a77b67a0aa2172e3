"""One optimizer update of several runs, as one program under ``jax.vmap``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.tree_util import PyTreeDef

from dst.core.typing import Array, PyTree
from dst.engine import schedule_lookup
from dst.engine.state import Hyper
from dst.studies.sweep.engines import merge
from dst.studies.sweep.engines.merge import Different
from dst.train import step
from dst.train.data.stream import Placed
from dst.train.setup import Setup
from dst.train.state import TrainState
from dst.train.step import Metrics
from dst.train.work import Result, Work

Shapes = tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]  # of inputs and labels
Arguments = tuple[TrainState, Placed, Placed]
Rows = Mapping[bool, Sequence[Array | np.ndarray]]  # by whether it is a topology step


class Trace(NamedTuple):
    """What one update of a run computes.

    Attributes:
      state: shapes of the training state.
      steps: by whether it is a topology step; no entry for True where a run has none.
      out: structure of the results.
    """

    state: TrainState
    steps: dict[bool, ClosedJaxpr]
    out: PyTreeDef


def trace(pieces: Setup, state: TrainState, batch: Shapes, rows: int) -> Trace:
    """Traces the updates of a run.

    Args:
      pieces: of the run.
      state: of the run, or its shapes.
      batch: shapes of inputs and labels of one update.
      rows: length of the tables of its schedule.
    """
    step: Any = pieces.step  # jitted: it has `trace`
    shapes = jax.eval_shape(partial(_with_rows, rows=rows), state)
    has_topology_steps = pieces.config.rule().when is not None  # a config has none that never fires
    traced = {
        topology: step.trace(shapes, *batch, topology=topology)
        for topology in (False, True)[: 1 + has_topology_steps]
    }
    steps = {topology: x.jaxpr for topology, x in traced.items()}
    return Trace(shapes, steps, jax.tree.structure(traced[False].out_info))


def compare(one: Trace, other: Trace) -> None:
    """Raises Different unless the runs can share a program."""
    if one.steps.keys() != other.steps.keys():
        raise Different("one has topology steps, the other has none")
    if one.state != other.state:
        raise Different("their states have arrays of other shapes")
    for topology in one.steps:
        merge.compare(one.steps[topology], other.steps[topology])


def rows(state: TrainState) -> int:
    """Length of the tables of a run's schedule."""
    hyper = state.opt_state.hyper
    return max(len(x) for x in (*jax.tree.leaves(hyper.counts), hyper.shares))


class Program:
    """One update of the trials of a batch. Trials are named by their place in the batch.

    Args:
      traces: of the trials.

    Raises:
      Different: as :func:`compare`.
    """

    def __init__(self, traces: Sequence[Trace]):
        first = traces[0]
        self._count, self._rows, self._out = len(traces), rows(first.state), first.out
        for other in traces[1:]:
            compare(first, other)
        self._merged = {t: merge.merged([x.steps[t] for x in traces]) for t in first.steps}
        self._hyper: dict[int, Hyper] = {}
        self._one = jax.jit(self._together, static_argnames="topology")
        self._several = jax.jit(self._together_several)

    def results(self, work: Mapping[int, Work]) -> dict[int, Result | Exception]:
        """The results of the calls that trials want; together for those that want the same.

        Where the program fails, the result is its exception.
        """
        results: dict[int, Result | Exception] = {}
        keywords = {i: x.call.keywords for i, x in work.items()}
        for key in {tuple(x.items()): x for x in keywords.values()}.values():
            trials = sorted(i for i in work if keywords[i] == key)
            program = self._one if "topology" in key else self._several
            calls = [work[i].call.args for i in trials]
            try:
                values = self._call(partial(program, **key), trials, calls)
                results |= zip(trials, values, strict=True)
            except Exception as error:  # every trial that wants this call gets it
                results |= dict.fromkeys(trials, error)
        return results

    def _call(
        self,
        program: Callable[..., list[Result]],
        trials: Sequence[int],
        calls: Sequence[Arguments],
    ) -> list[Result]:
        own = [state.opt_state.hyper for state, *_ in calls]
        for trial, hyper in zip(trials, own, strict=True):
            if trial not in self._hyper:  # no update changes it
                self._hyper[trial] = schedule_lookup.longer(hyper, self._rows)
        equal = [
            (_with_hyper(state, self._hyper[trial]), inputs, labels)
            for trial, (state, inputs, labels) in zip(trials, calls, strict=True)
        ]
        padded, equal = self._padded(trials, equal)
        results = program(self._columns(padded), equal)
        return [
            (_with_hyper(state, hyper), *figures)
            for hyper, (state, *figures) in zip(own, results, strict=False)
        ]

    def _padded(
        self, trials: Sequence[int], calls: Sequence[Arguments]
    ) -> tuple[list[int], list[Arguments]]:
        """Repeats the first call up to a number for which few programs are compiled: all trials,
        a half, a quarter, ..."""
        size = self._count
        while (size + 1) // 2 >= len(trials) and size > 1:
            size = (size + 1) // 2
        more = size - len(trials)
        return [*trials, *[trials[0]] * more], [*calls, *[calls[0]] * more]

    def _columns(self, trials: Sequence[int]) -> dict[bool, list[np.ndarray]]:
        """The numbers in which the programs of these trials differ."""
        return {
            topology: [np.stack(x) for x in zip(*(merged.rows[i] for i in trials), strict=True)]
            for topology, merged in self._merged.items()
        }

    def _together(
        self, columns: Rows, calls: Sequence[Arguments], topology: bool
    ) -> list[tuple[TrainState, Metrics]]:
        states, inputs, labels = zip(*calls, strict=True)
        batches = jnp.stack(inputs), jnp.stack(labels)
        new, metrics = self._mapped(columns, _stacked(states), *batches, topology)
        return [(_row(_with_hyper(new, None), i), _row(metrics, i)) for i in range(len(calls))]

    def _together_several(
        self, columns: Rows, calls: Sequence[Arguments], n: Array
    ) -> list[tuple[TrainState, Metrics, Array]]:
        def one(
            state: TrainState, inputs: Array, labels: Array, *, topology: bool
        ) -> tuple[TrainState, Metrics]:
            return self._mapped(columns, state, inputs, labels, topology)

        states, inputs, labels = zip(*calls, strict=True)
        batches = jnp.stack(inputs, axis=1), jnp.stack(labels, axis=1)
        new, metrics, losses = step.several(one)(_stacked(states), *batches, n)
        new = _with_hyper(new, None)
        return [(_row(new, i), _row(metrics, i), losses[:, i]) for i in range(len(calls))]

    def _mapped(
        self, columns: Rows, state: TrainState, inputs: Array, labels: Array, topology: bool
    ) -> tuple[TrainState, Metrics]:
        merged = self._merged[topology]

        def one(row: Sequence[Array | np.ndarray], *args: PyTree) -> PyTree:
            return jax.tree.unflatten(self._out, merged(row, *jax.tree.leaves(args)))

        return jax.vmap(one)(columns[topology], state, inputs, labels)


def _with_rows(state: TrainState, rows: int) -> TrainState:
    """With tables of at least so many rows."""
    return _with_hyper(state, schedule_lookup.longer(state.opt_state.hyper, rows))


def _with_hyper(state: TrainState, hyper: Hyper | None) -> TrainState:
    """With another schedule; None leaves it out of what is batched."""
    kept = state.opt_state._replace(hyper=hyper)  # type: ignore[arg-type]
    return state._replace(opt_state=kept)


def _stacked(states: Sequence[TrainState]) -> TrainState:
    return jax.tree.map(lambda *x: jnp.stack(x), *states)


def _row(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda x: x[i], tree)
