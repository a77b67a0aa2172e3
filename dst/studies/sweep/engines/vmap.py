"""Trials in one program, as many as can be merged; the others as processes."""

from __future__ import annotations

import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax

from dst.studies.sweep.engines import batch as lanes
from dst.studies.sweep.engines.batch import Left, Program, Trace
from dst.studies.sweep.engines.merge import Different
from dst.studies.sweep.engines.processes import POLL, Workers
from dst.studies.sweep.spec import Sweep
from dst.studies.sweep.storage import Book, Claim, Entry
from dst.studies.sweep.trial import Trial, trial_directory
from dst.train import loop, setup
from dst.train.config import run as config
from dst.train.config.run import Config, ConfigError
from dst.train.distributed import signals
from dst.train.records import run_dir as directory
from dst.train.setup import Setup
from dst.train.state import TrainState


@dataclass
class Made:
    """A trial, ready to train.

    Attributes:
      trial: whose run it is.
      setup: its pieces.
      state: before its first step; handed to the run that begins with it.
      batch: shapes of a batch.
      trace: of its updates.
    """

    trial: Trial
    setup: Setup
    state: TrainState | None
    batch: tuple[Any, Any]
    trace: Trace | None = None


class Vectorised:
    """Groups of trials, one after another; what cannot be merged trains as processes do.

    Args:
      sweep: that is run.
      book: of it.
      where: the directory of the sweep.
      together: trials in a program, at most.
      workers: processes for the others.
      tell: is told in a line why trials are not merged.
    """

    def __init__(
        self,
        sweep: Sweep,
        book: Book,
        where: Path,
        together: int,
        workers: int,
        tell: Callable[[str], None],
    ):
        self._sweep, self._book, self._where, self._tell = sweep, book, where, tell
        self._together, self._workers = together, workers
        self._kinds: dict[tuple[str, ...], Any] = {}
        settings: Any = jax.config
        if not settings.jax_compilation_cache_dir:  # what trials do one by one is compiled once
            jax.config.update("jax_compilation_cache_dir", str(where / "compiled"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

    def run(self, request: signals.Request, show: Callable[[], None]) -> None:
        """As :meth:`dst.studies.sweep.engines.processes.Workers.run`."""
        while request.name is None and (claims := self._claims()):
            groups, alone = self._grouped([self._trial(x) for x in claims], show)
            for group in groups:
                self._train(group, show)
            if alone:
                next_one = partial(next, rest := iter(alone), None)
                Workers(self._sweep, next_one, self._where, self._workers).run(request, show)
                for claim in rest:  # a signal came first
                    claim.given_back()
        show()

    def _trial(self, claim: Claim) -> Trial:
        return Trial(self._sweep, claim, trial_directory(self._where, claim.number))

    def _claims(self) -> list[Claim]:
        """Trials that may be mergeable: their configs are the same but for numbers."""
        found: list[Claim] = []

        def alike(entry: Entry) -> bool:
            own = self._kind(entry.overrides or ())
            return entry.overrides is not None and own == self._kind(found[0].overrides)

        while len(found) < self._together:
            claim = self._book.claim(alike if found and self._sweep.method != "bayes" else None)
            if claim is None:
                break
            found.append(claim)
        return found

    def _kind(self, overrides: tuple[str, ...]) -> Any:
        if overrides not in self._kinds:
            made = config.load(self._sweep.config, [*self._sweep.fixed, *overrides])
            self._kinds[overrides] = _kind(config.to_dict(made))
        return self._kinds[overrides]

    def _grouped(
        self, trials: list[Trial], show: Callable[[], None]
    ) -> tuple[list[list[Made]], list[Claim]]:
        """Groups that share a program, and the claims on what is in none."""
        alone: list[tuple[str, Claim]] = []
        made = []

        def alive() -> None:
            show()
            for trial in trials:
                trial.look()

        for trial in trials:
            alive()
            try:
                made.append(_make(trial))
            except (Different, ConfigError) as error:  # of an error, processes say more
                alone.append((str(error), trial.claim))
        groups = _groups(made, alive)
        alone += [(why, group[0].trial.claim) for why, group in groups if len(group) == 1]
        for why, claims in groupby(alone, lambda x: x[0]):
            self._tell(f"not merged: {_listed(x.number for _, x in claims)}: {why}")
        together = [part for _, group in groups if len(group) > 1 for part in _in_step(group)]
        return together, [claim for _, claim in alone]

    def _train(self, group: list[Made], show: Callable[[], None]) -> None:
        together = lanes.Lanes(Program([x.trace for x in group if x.trace]), len(group))
        self._tell(f"one program: {_listed(x.trial.claim.number for x in group)}")
        ends: dict[int, Callable[[], None]] = {}
        out, err = _ByThread(sys.stdout), _ByThread(sys.stderr)

        def train(lane: int, made: Made) -> None:
            with together.turn(lane):  # first of all, since the others wait for this one
                try:
                    made.trial.run.parent.mkdir(parents=True, exist_ok=True)
                    with made.trial.log.open("a", encoding="utf-8") as log:
                        out.use(log)
                        err.use(log)
                        ends[lane] = _train_one(made, partial(together.enter, lane))
                except OSError as error:  # of the log
                    ends[lane] = partial(made.trial.claim.failed, str(error))
                finally:
                    out.use(None)
                    err.use(None)

        streams: tuple[Any, Any] = out, err  # text streams but in name
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            threads = [
                threading.Thread(target=train, args=(i, made), daemon=True)
                for i, made in enumerate(group)
            ]
            for thread in threads:
                thread.start()
            try:
                self._watch(group, threads, ends, together, show)
            finally:  # none is left behind by an error of this thread
                for i, thread in enumerate(threads):
                    together.send_away(i)
                    thread.join()

    def _watch(
        self,
        group: list[Made],
        threads: list[threading.Thread],
        ends: dict[int, Callable[[], None]],
        together: lanes.Lanes,
        show: Callable[[], None],
    ) -> None:
        """Until all lanes have ended, and the book knows how."""
        left = dict(enumerate(group))
        while left:
            for i, made in list(left.items()):
                if not threads[i].is_alive():
                    ends[i]()
                    del left[i]
                    continue
                made.trial.look()
                if made.trial.behind:
                    together.send_away(i)
            show()
            time.sleep(POLL)


def _train_one(made: Made, enter: Callable[[Setup], Setup]) -> Callable[[], None]:
    """Trains a trial to its end; returns what is to be told to the book, by the main thread."""
    trial, begin = made.trial, made.setup.begin

    def first() -> TrainState:
        state, made.state = made.state, None  # one who trains gives its buffers away
        return begin() if state is None else state

    def make(_: Config) -> Setup:
        return enter(made.setup._replace(begin=first))

    try:
        if (trial.run / directory.SUMMARY).is_file():
            return trial.conclude
        if trial.begun:
            loop.resume(trial.run, make=make)
        else:
            loop.train(made.setup.config, trial.run, make=make)
    except Left:
        return trial.claim.pruned
    except signals.Stopped as reason:
        print(reason)
        return trial.claim.given_back
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        traceback.print_exc()
        return lambda: trial.claim.failed(text)
    return trial.conclude


def _make(trial: Trial) -> Made:
    """Builds a trial.

    Raises:
      Different: it is none that can share a program.
    """
    found = config.load(trial.sweep.config, trial.overrides)
    if found.wandb.mode != "disabled":
        raise Different("W&B keeps one run per process")
    if trial.begun and trial.in_use:
        raise Different("another process still has its directory")
    if found.hosts.coordinator is not None:
        raise Different("it runs in several processes")
    made = setup.make(found)
    state = made.begin()
    if len(jax.tree.leaves(state.params)[0].sharding.device_set) > 1:
        raise Different("it lies on several devices")
    with closing(made.batches(found.start.step)) as batches:
        batch = jax.eval_shape(lambda *x: x, *next(batches))
    return Made(trial, made, state, batch)


def _groups(made: list[Made], alive: Callable[[], None]) -> list[tuple[str, list[Made]]]:
    """Trials that can share a program, each group with why it does not join the one before."""
    groups: list[tuple[str, list[Made]]] = []
    most = max((lanes.rows(x.state) for x in made if x.state), default=0)
    traces: dict[str, Trace] = {}
    for one in made:
        alive()
        # The seed is data: it chooses weights, masks and batches, and lies in the state.
        key = config.dump(replace(one.setup.config, seed=0, name="any"))
        if key not in traces:
            assert one.state is not None
            traces[key] = lanes.trace(one.setup, one.state, one.batch, most)
        one.trace = traces[key]
        why = "no other trial has its settings but for numbers"
        for _, group in groups:
            try:
                assert group[0].trace is not None
                lanes.compare(group[0].trace, one.trace)
            except Different as error:
                why = str(error)
            else:
                group.append(one)
                break
        else:
            groups.append((why, [one]))
    return groups


def _in_step(group: list[Made]) -> list[list[Made]]:
    """A group, divided by when topology steps are: lanes that do the same at the same time wait
    for nobody, and need no programs for some of them."""
    whole = range(group[0].setup.config.train.steps)
    when = [tuple(filter(one.setup.fires, whole)) for one in group]
    return [[group[i] for i in part] for part in _alike(when)]


def _alike(keys: Sequence[Hashable]) -> list[list[int]]:
    """Places of the same key; those of keys that only one has go together, or with the last."""
    parts: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        parts.setdefault(key, []).append(i)
    found = [part for part in parts.values() if len(part) > 1]
    rest = [part[0] for part in parts.values() if len(part) == 1]
    if len(rest) == 1 and found:
        found[-1] += rest
    elif rest:
        found.append(rest)
    return found


def _listed(numbers: Iterable[int]) -> str:
    found = list(numbers)
    return f"trial{'s' * (len(found) > 1)} {', '.join(map(str, found))}"


def _kind(data: Any) -> Any:
    """Plain data with the word ``number`` in the place of every number and percentage."""
    if isinstance(data, dict):
        return {key: _kind(value) for key, value in data.items()}
    number = isinstance(data, int | float) and not isinstance(data, bool)
    number |= isinstance(data, str) and re.fullmatch(r"[0-9.]+%", data) is not None
    return "number" if number else data


class _ByThread:
    """A text stream that is another one in some threads."""

    def __init__(self, usual: Any):
        self._usual, self._own = usual, threading.local()

    def use(self, file: Any) -> None:
        """What this thread writes goes there; None: where it usually goes."""
        self._own.file = file

    def write(self, text: str) -> int:
        return self._file().write(text)

    def flush(self) -> None:
        self._file().flush()

    def isatty(self) -> bool:
        return self._file().isatty()

    def fileno(self) -> int:
        return self._file().fileno()

    @property
    def encoding(self) -> str:
        return self._file().encoding

    def _file(self) -> Any:
        return getattr(self._own, "file", None) or self._usual
