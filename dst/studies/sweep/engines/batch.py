"""One optimizer update of several runs, as one program under ``jax.vmap``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
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
from dst.train.work import Held, Result, Update, Work

Shapes = tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]  # of inputs and labels
Arguments = tuple[Held, Placed, Placed]
Places = tuple[Array | np.ndarray, Array | np.ndarray] | None  # None: all rows, in order
Batches = Sequence[tuple[Placed, Placed]]  # inputs and labels of each trial
Rows = Mapping[bool, Sequence[Array | np.ndarray]]  # by whether it is a topology step


class Trace(NamedTuple):
    """What one update of a run computes.

    Attributes:
      state: shapes of the training state.
      batch: shapes of inputs and labels.
      steps: by whether it is a topology step; no entry for True where a run has none.
      out: structure of the results.
    """

    state: TrainState
    batch: Shapes
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
    return Trace(shapes, batch, steps, jax.tree.structure(traced[False].out_info))


def compare(one: Trace, other: Trace) -> None:
    """Raises Different unless the runs can share a program."""
    if one is other:
        return
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


class Row:
    """The state of one trial, as a row of the state of its batch.

    Attributes:
      state: copied out of the batch when it is first asked for, and before the next update.
    """

    def __init__(self, copy: Callable[[], TrainState]):
        self._copy = copy

    @cached_property
    def state(self) -> TrainState:
        return self._copy()


class Program:
    """One update of the trials of a batch. Trials are named by their place in the batch.

    Between two updates their states stay stacked, one row per trial. So the program has as many
    arguments for sixteen trials as for one, and takes as long to compile.

    Args:
      traces: of the trials.

    Raises:
      Different: as :func:`compare`.
    """

    def __init__(self, traces: Sequence[Trace]):
        first = traces[0]
        self._count, self._rows, self._out = len(traces), rows(first.state), first.out
        for other in {id(x): x for x in traces}.values():
            compare(first, other)
        self._merged = {t: merge.merged([x.steps[t] for x in traces]) for t in first.steps}
        self._state: TrainState | None = None  # of all trials
        self._held: dict[int, Row] = {}  # what their loops got
        self._hyper: dict[int, Hyper] = {}  # theirs, with tables of their own length
        self._one = jax.jit(self._together, static_argnames="topology", donate_argnames="state")
        self._several = jax.jit(self._together_several, donate_argnames="state")
        self._batch = first.batch
        self._ahead: Future[Any] | None = None  # the compiled topology step

    def results(self, work: Mapping[int, Work]) -> dict[int, Any]:
        """The results of what trials want; updates together for those that want the same.

        Where a call fails, the result is its exception.
        """
        updates = {i: x.call for i, x in work.items() if isinstance(x, Update)}
        results = self._updated(updates)
        for i in work.keys() - updates:
            try:
                results[i] = work[i].call()
            except Exception as error:
                results[i] = error
        return results

    def _updated(self, updates: Mapping[int, partial[Any]]) -> dict[int, Any]:
        results: dict[int, Any] = {}
        for key in {tuple(x.keywords.items()): x.keywords for x in updates.values()}.values():
            trials = sorted(i for i, x in updates.items() if x.keywords == key)
            program = self._one if "topology" in key else self._several
            calls = [updates[i].args for i in trials]
            try:
                values = self._call(partial(program, **key), trials, calls)
                results |= zip(trials, values, strict=True)
            except Exception as error:  # every trial that wants this call gets it
                results |= dict.fromkeys(trials, error)
        return results

    def _call(
        self, program: Any, trials: Sequence[int], calls: Sequence[Arguments]
    ) -> list[Result]:
        for trial, (held, *_) in zip(trials, calls, strict=True):
            if held is not self._held.get(trial):  # it begins, resumes or has rolled back
                self._enter(trial, held.state)
        padded = self._padded(trials)
        batches = [x[1:] for x in calls] + [calls[0][1:]] * (len(padded) - len(trials))
        places = None if len(trials) == self._count else self._places(trials, padded)
        columns = self._columns(padded)
        if self._ahead is None and places is None and self._at_once:
            self._ahead = self._compiling(columns)
        if places is None and self._ahead is not None and program.keywords.get("topology"):
            program = self._ahead.result()
        self._state, figures = program(columns, self._state, places, batches)
        for trial in trials:
            self._held[trial] = Row(partial(self._row, trial))
        return [(self._held[i], *own) for i, own in zip(trials, figures, strict=False)]

    @cached_property
    def _at_once(self) -> bool:
        """Whether there are topology steps, at the same steps in all trials."""
        times = {(int(x.first), int(x.every), int(x.last)) for x in self._hyper.values()}
        return True in self._merged and len(times) == 1

    def _compiling(self, columns: Rows) -> Future[Any]:
        """The topology step of all trials, compiled while the first program compiles and runs."""
        batches = [self._batch] * self._count
        lowered = self._one.lower(columns, self._state, None, batches, topology=True)
        thread = ThreadPoolExecutor(1, thread_name_prefix="compile")
        future = thread.submit(lowered.compile)
        thread.shutdown(wait=False)
        return future

    def _enter(self, trial: int, state: TrainState) -> None:
        """Writes the state of a trial into its row."""
        self._hyper[trial] = state.opt_state.hyper  # no update changes it
        equal = _with_rows(state, self._rows)
        if self._state is None:
            self._state = _repeated(equal, self._count)
        self._state = _written(self._state, trial, equal)

    def _row(self, trial: int) -> TrainState:
        """The state of a trial, out of its row."""
        return _with_hyper(_read(self._state, trial), self._hyper[trial])

    def _padded(self, trials: Sequence[int]) -> list[int]:
        """Repeats the first trial up to a number for which few programs are compiled: all trials,
        a half, a quarter, ..."""
        size = self._count
        while (size + 1) // 2 >= len(trials) and size > 1:
            size = (size + 1) // 2
        return [*trials, *[trials[0]] * (size - len(trials))]

    def _places(
        self, trials: Sequence[int], padded: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows that a call reads, and those that it writes; repeated trials write none."""
        none = [self._count] * (len(padded) - len(trials))
        return np.asarray(padded, np.int32), np.asarray([*trials, *none], np.int32)

    def _columns(self, trials: Sequence[int]) -> dict[bool, list[np.ndarray]]:
        """The numbers in which the programs of these trials differ."""
        return {
            topology: [np.stack(x) for x in zip(*(merged.rows[i] for i in trials), strict=True)]
            for topology, merged in self._merged.items()
        }

    def _together(
        self, columns: Rows, state: TrainState, places: Places, batches: Batches, topology: bool
    ) -> tuple[TrainState, list[tuple[Metrics]]]:
        inputs, labels = (jnp.stack(x) for x in zip(*batches, strict=True))
        new, metrics = self._mapped(columns, _taken(state, places), inputs, labels, topology)
        return _merged(state, places, new), [(_at(metrics, i),) for i in range(len(batches))]

    def _together_several(
        self, columns: Rows, state: TrainState, places: Places, batches: Batches, n: Array
    ) -> tuple[TrainState, list[tuple[Metrics, Array]]]:
        def one(
            state: TrainState, inputs: Array, labels: Array, *, topology: bool
        ) -> tuple[TrainState, Metrics]:
            return self._mapped(columns, state, inputs, labels, topology)

        inputs, labels = (jnp.stack(x, axis=1) for x in zip(*batches, strict=True))
        new, metrics, losses = step.several(one)(_taken(state, places), inputs, labels, n)
        figures = [(_at(metrics, i), losses[:, i]) for i in range(len(batches))]
        return _merged(state, places, new), figures

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


def _with_hyper(state: TrainState, hyper: Hyper) -> TrainState:
    """With another schedule."""
    return state._replace(opt_state=state.opt_state._replace(hyper=hyper))


def _at(tree: PyTree, i: Array | np.ndarray | int) -> PyTree:
    return jax.tree.map(lambda x: x[i], tree)


@partial(jax.jit, static_argnames="count")
def _repeated(state: TrainState, count: int) -> TrainState:
    """So many rows, which all are this state."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), state)


@partial(jax.jit, donate_argnums=0)
def _written(stacked: TrainState, i: Array | int, state: TrainState) -> TrainState:
    return jax.tree.map(lambda x, own: x.at[i].set(own), stacked, state)


_read = jax.jit(_at)


def _taken(stacked: TrainState, places: Places) -> TrainState:
    """The rows that a call reads."""
    return stacked if places is None else _at(stacked, places[0])


def _merged(stacked: TrainState, places: Places, new: TrainState) -> TrainState:
    """With the rows that a call writes."""
    if places is None:
        return new
    return jax.tree.map(lambda x, y: x.at[places[1]].set(y, mode="drop"), stacked, new)
