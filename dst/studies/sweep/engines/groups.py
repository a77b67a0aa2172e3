"""Which trials can train in one program, and which of them should."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import jax

from dst.studies.sweep.command import Train
from dst.studies.sweep.engines import batch
from dst.studies.sweep.engines.batch import Shapes, Trace
from dst.studies.sweep.engines.merge import Different
from dst.studies.sweep.trial import Trial
from dst.train import setup
from dst.train.config import run as config
from dst.train.config.run import Config
from dst.train.setup import Setup
from dst.train.state import TrainState

PlainData = dict[str, "PlainData"] | list["PlainData"] | str | int | float | bool | None


@dataclass
class Candidate:
    """A trial that is ready to train.

    Attributes:
      trial: whose run it is.
      pieces: of the run.
      state: before the first step; None once the run has started with it.
      batch: shapes of inputs and labels of one update.
      trace: of its updates; None until it is needed.
    """

    trial: Trial
    pieces: Setup
    state: TrainState | None
    batch: Shapes
    trace: Trace | None = None


def candidate(trial: Trial, command: Train, made: dict[str, Setup] | None = None) -> Candidate:
    """Builds the pieces of a trial.

    Args:
      trial: of which the pieces are.
      command: that trials run.
      made: pieces by what configs are but for their seeds; those that are missing are added.

    Raises:
      Different: the trial cannot share a program with any other.
    """
    settings = command.load(trial.overrides)
    if trial.started and trial.in_use:
        raise Different("another process still uses its directory")
    if settings.hosts.coordinator is not None:
        raise Different("it runs in several processes")
    made, key = {} if made is None else made, _but_for_seed(settings)
    made[key] = made[key].seeded(settings) if key in made else setup.make(settings)
    pieces = made[key]
    state = pieces.begin()
    if len(jax.tree.leaves(state.params)[0].sharding.device_set) > 1:
        raise Different("it lies on several devices")
    if settings.sparsify.form == "packed":
        raise Different("its weights are packed")
    if isinstance(pieces.step, partial):
        raise Different("its objective reads arrays of its own")
    with closing(pieces.batches(settings.start.step)) as batches:
        shapes = jax.eval_shape(lambda *x: x, *next(batches))
    return Candidate(trial, pieces, state, shapes)


def grouped(
    candidates: Sequence[Candidate], alive: Callable[[], None]
) -> list[tuple[str, list[Candidate]]]:
    """Candidates that can share a program; each group with why it cannot join the one before.

    Args:
      candidates: with their states.
      alive: called before each trace, which may take seconds.
    """
    groups: list[tuple[str, list[Candidate]]] = []
    most = max((batch.rows(x.state) for x in candidates if x.state), default=0)
    traces: dict[str, Trace] = {}
    for one in candidates:
        alive()
        key = _but_for_seed(one.pieces.config)
        if key not in traces:
            assert one.state is not None
            traces[key] = batch.trace(one.pieces, one.state, one.batch, most)
        one.trace = traces[key]
        why = "no other trial has its settings but for numbers"
        for _, group in groups:
            try:
                assert group[0].trace is not None
                batch.compare(group[0].trace, one.trace)
            except Different as error:
                why = str(error)
            else:
                group.append(one)
                break
        else:
            groups.append((why, [one]))
    return groups


def _but_for_seed(settings: Config) -> str:
    """A config without its seed, which is data: it chooses weights, masks and batches."""
    return config.dump(replace(settings, seed=0, name="any"))


def by_topology_steps(group: list[Candidate]) -> list[list[Candidate]]:
    """Divides a group by when topology steps are. Trials that do the same at the same time wait
    for no other, and need no programs for a part of the batch."""
    return [[group[i] for i in part] for part in equal([_times(x.pieces.config) for x in group])]


def _times(settings: Config) -> Hashable:
    """What the topology steps of a run follow from."""
    when = settings.rule().when
    if when is None:
        return None
    return when.first, when.every, when.last if when.last < settings.train.steps else None


def equal(keys: Sequence[Hashable]) -> list[list[int]]:
    """Places of equal keys. Keys that stand once go together; a single one goes with the last."""
    parts: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        parts.setdefault(key, []).append(i)
    several = [part for part in parts.values() if len(part) > 1]
    single = [part[0] for part in parts.values() if len(part) == 1]
    if len(single) == 1 and several:
        several[-1] += single
    elif single:
        several.append(single)
    return several


def without_numbers(data: PlainData) -> PlainData:
    """Plain data with the word ``number`` in the place of every number and percentage."""
    if isinstance(data, dict):
        return {key: without_numbers(value) for key, value in data.items()}
    number = isinstance(data, int | float) and not isinstance(data, bool)
    number |= isinstance(data, str) and re.fullmatch(r"[0-9.]+%", data) is not None
    return "number" if number else data
