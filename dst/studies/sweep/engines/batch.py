"""Runs that train in one program: each in a thread, with a loop and a run directory of its own.

The loop of a run does not know that it is one of several. Where it asks for an optimizer update it
waits for the other lanes; then one program makes the update of all of them under ``jax.vmap``, and
each goes on with its own result: logs, evaluations, checkpoints, an end, a failure.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from dst.engine import schedule_lookup
from dst.studies.sweep.engines import merge
from dst.studies.sweep.engines.merge import Different
from dst.train import step
from dst.train.setup import Setup
from dst.train.state import TrainState


class Left(RuntimeError):
    """A lane was asked to leave."""


class Trace(NamedTuple):
    """What one update of a run computes.

    Attributes:
      state: shapes of the training state.
      steps: by whether it is a topology step; without one where there is none.
      out: structure of the results.
    """

    state: TrainState
    steps: dict[bool, ClosedJaxpr]
    out: Any


def trace(made: Setup, state: TrainState, batch: tuple[Any, Any], rows: int) -> Trace:
    """Traces the updates of a run.

    Args:
      made: its pieces.
      state: of it, or its shapes.
      batch: shapes of inputs and labels of one update.
      rows: length of the tables of its schedule.
    """
    step: Any = made.step
    shapes = jax.eval_shape(partial(_widened, rows=rows), state)
    changing = any(map(made.fires, range(made.config.train.steps)))
    found = {
        topology: step.trace(shapes, *batch, topology=topology)
        for topology in (False, True)[: 1 + changing]
    }
    steps = {topology: x.jaxpr for topology, x in found.items()}
    return Trace(shapes, steps, jax.tree.structure(found[False].out_info))


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
    """One update of many runs.

    Args:
      traces: of the runs.

    Raises:
      Different: as :func:`compare`.
    """

    def __init__(self, traces: Sequence[Trace]):
        first = traces[0]
        self._count, self._rows, self._out = len(traces), rows(first.state), first.out
        for other in traces[1:]:
            compare(first, other)
        self._merged = {t: merge.merged([x.steps[t] for x in traces]) for t in first.steps}
        self._hyper: dict[int, Any] = {}
        self._one = jax.jit(self._together, static_argnames="topology")
        self._several = jax.jit(self._together_several)

    def step(self, lanes: Sequence[int], calls: Sequence[Any], topology: bool) -> list[Any]:
        """:func:`dst.train.step.make` for some of the runs; ``calls`` are its arguments."""
        return self._call(partial(self._one, topology=topology), lanes, calls)

    def steps(self, lanes: Sequence[int], calls: Sequence[Any], n: int) -> list[Any]:
        """:func:`dst.train.step.several` for some of the runs."""
        return self._call(partial(self._several, n=n), lanes, calls)

    def _call(self, program: Any, lanes: Sequence[int], calls: Sequence[Any]) -> list[Any]:
        own = [state.opt_state.hyper for state, *_ in calls]
        for lane, hyper in zip(lanes, own, strict=True):
            if lane not in self._hyper:  # of one size, for one program; no update changes it
                self._hyper[lane] = schedule_lookup.longer(hyper, self._rows)
        wide = [
            (_scheduled(state, self._hyper[lane]), *batch)
            for lane, (state, *batch) in zip(lanes, calls, strict=True)
        ]
        lanes, wide = self._padded(lanes, wide)
        found = program(self._columns(lanes), wide)
        return [
            (_scheduled(state, hyper), *figures)
            for hyper, (state, *figures) in zip(own, found, strict=False)
        ]

    def _padded(self, lanes: Sequence[int], calls: Sequence[Any]) -> tuple[list[int], list[Any]]:
        """As many as a program was compiled for, most of the time: all, a half, a quarter, ..."""
        size = self._count
        while (size + 1) // 2 >= len(lanes) and size > 1:
            size = (size + 1) // 2
        more = size - len(lanes)
        return [*lanes, *[lanes[0]] * more], [*calls, *[calls[0]] * more]

    def _columns(self, lanes: Sequence[int]) -> dict[bool, list[np.ndarray]]:
        """The numbers in which the programs of these runs differ."""
        return {
            topology: [np.stack(x) for x in zip(*(found.rows[i] for i in lanes), strict=True)]
            for topology, found in self._merged.items()
        }

    def _together(self, columns: Any, calls: Sequence[Any], topology: bool) -> list[Any]:
        states, inputs, labels = zip(*calls, strict=True)
        batches = jnp.stack(inputs), jnp.stack(labels)
        new, metrics = self._mapped(columns, _stacked(states), *batches, topology)
        return [(_row(_scheduled(new, None), i), _row(metrics, i)) for i in range(len(calls))]

    def _together_several(self, columns: Any, calls: Sequence[Any], n: Any) -> list[Any]:
        def one(state: Any, inputs: Any, labels: Any, *, topology: bool) -> Any:
            return self._mapped(columns, state, inputs, labels, topology)

        states, inputs, labels = zip(*calls, strict=True)
        batches = jnp.stack(inputs, axis=1), jnp.stack(labels, axis=1)
        new, metrics, losses = step.several(one)(_stacked(states), *batches, n)
        new = _scheduled(new, None)
        return [(_row(new, i), _row(metrics, i), losses[:, i]) for i in range(len(calls))]

    def _mapped(self, columns: Any, state: Any, inputs: Any, labels: Any, topology: bool) -> Any:
        def one(row: Any, *args: Any) -> Any:
            return jax.tree.unflatten(self._out, found(row, *jax.tree.leaves(args)))

        found = self._merged[topology]
        return jax.vmap(one)(columns[topology], state, inputs, labels)


def _widened(state: TrainState, rows: int) -> TrainState:
    """With tables of at least so many rows."""
    return _scheduled(state, schedule_lookup.longer(state.opt_state.hyper, rows))


def _scheduled(state: TrainState, hyper: Any) -> TrainState:
    """With another schedule."""
    return state._replace(opt_state=state.opt_state._replace(hyper=hyper))


def _stacked(states: Sequence[TrainState]) -> TrainState:
    return jax.tree.map(lambda *x: jnp.stack(x), *states)


def _row(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


class Lanes:
    """Threads that wait for each other's calls, and take turns between them.

    They could not compute at the same time anyway, and neither JAX's cache of compiled programs
    nor what they print would be whole if they did.

    Args:
      program: that makes them.
      count: number of lanes.
    """

    def __init__(self, program: Program, count: int):
        self._program, self._all = program, threading.Condition()
        self._on, self._leaving = set(range(count)), set[int]()
        self._asked: dict[int, tuple[tuple[str, int], Any]] = {}
        self._given: dict[int, Any] = {}

    def enter(self, lane: int, made: Setup) -> Setup:
        """A run whose updates are made together with those of the other lanes."""

        def one(state: Any, inputs: Any, labels: Any, *, topology: bool) -> Any:
            return self._call(lane, ("step", bool(topology)), (state, inputs, labels))

        def several(state: Any, inputs: Any, labels: Any, n: int) -> Any:
            return self._call(lane, ("steps", n), (state, inputs, labels))

        return made._replace(step=one, steps=several)

    @contextmanager
    def turn(self, lane: int) -> Iterator[None]:
        """What a thread does in its lane; afterwards the others go on without it."""
        with self._all:
            try:
                yield
            finally:
                self._on.discard(lane)
                self._go()

    def send_away(self, lane: int) -> None:
        """The lane's next call raises :class:`Left`."""
        self._leaving.add(lane)

    def _call(self, lane: int, key: tuple[str, int], args: Any) -> Any:
        if lane in self._leaving:
            raise Left
        self._asked[lane] = key, args
        self._go()
        while lane not in self._given:
            self._all.wait()  # gives the turn away
        found = self._given.pop(lane)
        if isinstance(found, Exception):
            raise found
        return found

    def _go(self) -> None:
        """Makes the calls once all lanes have asked: together those that ask for the same."""
        if not self._on or self._asked.keys() < self._on:
            return
        for key in dict.fromkeys(key for key, _ in self._asked.values()):
            lanes = sorted(i for i, (k, _) in self._asked.items() if k == key)
            name, detail = key
            try:
                found = getattr(self._program, name)(
                    lanes, [self._asked[i][1] for i in lanes], detail
                )
            except Exception as error:  # of the program: every lane that asked has it
                found = [error for _ in lanes]
            self._given.update(zip(lanes, found, strict=False))
        self._asked.clear()
        self._all.notify_all()
