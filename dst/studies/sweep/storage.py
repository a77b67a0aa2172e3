"""The storage of a sweep: which trials there are, which worker has which one, what came out.

Optuna keeps it, in a journal file or a database, and searches. Any number of workers share it.
Optuna guarantees one thing: of several workers, a single one turns a waiting entry into a running
one. The rest follows from two rules:

* A *trial* has a number in the plan. An *entry* is an attempt at a trial. The entry of the highest
  attempt counts, and of several of these the oldest. So workers may write the same plan, or the
  same next attempt, at the same time: later entries are ignored.
* A worker sends a heartbeat every few seconds. An entry without heartbeats gets a next attempt.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError

from dst.core.text import masked
from dst.studies.sweep.spec import Sweep, SweepError

HEARTBEAT = 10.0  # seconds between two
DEAD = 60.0  # seconds without one
_RELEASED = 0.0  # the last heartbeat of a worker that was stopped
_PAUSES = (0.2, 0.5, 1.0, 2.0)  # seconds between attempts to open a database
_HOST = socket.gethostname()


@dataclass(frozen=True)
class Entry:
    """A look at a trial.

    Attributes:
      number: in the plan, from 0.
      state: ``waiting``, ``running``, ``stopped`` (released, to be continued), ``lost`` (its
        worker is dead), ``done``, ``pruned`` or ``failed``.
      overrides: of the config; None before a Bayesian search has chosen them.
      value: of the metric.
      error: why it failed.
    """

    number: int
    state: str
    overrides: tuple[str, ...] | None
    value: float | None
    error: str | None


class Storage:
    """Opens the storage, and writes the plan into it where it is missing.

    Args:
      sweep: whose trials it holds.
      storage: a database as a URL, or the path of a journal file.

    Raises:
      SweepError: the storage holds another sweep of this name, or cannot be reached.
    """

    def __init__(self, sweep: Sweep, storage: str | Path):
        self._sweep = sweep
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = _open(storage)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=sweep.name,
            direction=sweep.metric.goal,
            sampler=_sampler(sweep),
            pruner=_pruner(sweep),
            load_if_exists=True,
        )
        text = sweep.path.read_text(encoding="utf-8")
        if self._study.user_attrs.setdefault("file", text) != text:
            raise SweepError(
                f"{sweep.path}: {masked(str(storage))} holds another sweep of the name "
                f"{sweep.name!r}. Give this one a new name, or undo the change."
            )
        self._study.set_user_attr("file", text)
        known = {x.user_attrs["number"] for x in self._trials()}
        for number, overrides in enumerate(sweep.trials()):
            if number not in known:
                self._write(number, 0, overrides)

    def entries(self) -> list[Entry]:
        """All trials, by number."""
        return [_entry(x) for x in self._current()]

    def assign(self, fits: Callable[[Entry], bool] | None = None) -> Assignment | None:
        """Assigns a trial to this worker; None: no trial is waiting.

        Args:
          fits: which trials the worker can use; None: all.
        """
        for trial in self._current():
            if trial.state == TrialState.RUNNING and _lost(trial):
                attrs = trial.user_attrs
                self._write(attrs["number"], attrs["attempt"] + 1, attrs.get("overrides"))
                self._end(trial._trial_id, TrialState.FAIL)
        for trial in self._current():
            if trial.state != TrialState.WAITING or not (fits is None or fits(_entry(trial))):
                continue
            if self._take(trial._trial_id):
                return Assignment(self._sweep, self._study, self._storage, trial)
        return None

    def _write(self, number: int, attempt: int, overrides: Iterable[str] | None) -> None:
        attrs: dict[str, Any] = {"number": number, "attempt": attempt}
        if overrides is not None:
            attrs["overrides"] = list(overrides)
        self._study.enqueue_trial({}, user_attrs=attrs)

    def _take(self, trial_id: int) -> bool:
        try:
            return self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        except (RuntimeError, KeyError):  # finished by another worker meanwhile
            return False

    def _end(self, trial_id: int, state: TrialState) -> None:
        try:
            self._storage.set_trial_state_values(trial_id, state)
        except (RuntimeError, KeyError):
            pass

    def _trials(self) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return [x for x in trials if "number" in x.user_attrs]

    def _current(self) -> list[FrozenTrial]:
        best: dict[int, FrozenTrial] = {}
        for trial in sorted(self._trials(), key=lambda x: x.number):
            number, attempt = trial.user_attrs["number"], trial.user_attrs["attempt"]
            if number not in best or attempt > best[number].user_attrs["attempt"]:
                best[number] = trial
        return [best[n] for n in sorted(best)]


class Assignment:
    """A trial that is assigned to this worker."""

    def __init__(
        self,
        sweep: Sweep,
        study: optuna.Study,
        storage: optuna.storages.BaseStorage,
        trial: FrozenTrial,
    ):
        self.number: int = trial.user_attrs["number"]
        self._study, self._storage, self._id = study, storage, trial._trial_id
        self._set("worker", [_HOST, os.getpid()])
        self.alive()
        self._trial = optuna.trial.Trial(study, self._id)
        overrides = trial.user_attrs.get("overrides")
        if overrides is None:
            overrides = sweep.at(
                [
                    0.0 if x.constant else self._trial.suggest_float(".".join(path), 0.0, 1.0)
                    for path, x in sweep.parameters.items()
                ]
            )
            self._set("overrides", list(overrides))
        self.overrides: tuple[str, ...] = tuple(overrides)

    def alive(self, silence: float = 0.0) -> None:
        """Sends a heartbeat.

        Args:
          silence: seconds for which the next one may be late.
        """
        self._set("seen", time.time() + silence)

    def behind(self, step: int, value: float) -> bool:
        """Whether the trial should end, with this value of the metric at its ``step``-th
        evaluation."""
        self._trial.report(value, step)
        return self._trial.should_prune()

    def done(self, value: float) -> None:
        """The trial has ended with this value."""
        self._study.tell(self._trial, value)

    def pruned(self) -> None:
        """The trial was ended early, because it was behind."""
        self._study.tell(self._trial, state=TrialState.PRUNED)

    def failed(self, error: str) -> None:
        """The trial has failed."""
        self._set("error", error)
        self._study.tell(self._trial, state=TrialState.FAIL)

    def release(self) -> None:
        """The trial was stopped, and waits to be continued."""
        self._set("seen", _RELEASED)

    def _set(self, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._id, key, value)


def _open(storage: str | Path) -> optuna.storages.BaseStorage:
    if isinstance(storage, Path):
        return JournalStorage(JournalFileBackend(str(storage)))
    try:
        return _database(storage)
    except ModuleNotFoundError:  # of a driver: the command line says what to install
        raise
    except Exception as error:  # of whichever driver the URL names
        # Not `from error`: its text may hold the password.
        raise SweepError(masked(f"{storage} cannot be opened: {error}")) from None


def _database(url: str) -> optuna.storages.BaseStorage:
    for pause in _PAUSES:
        try:
            return optuna.storages.RDBStorage(url)
        except DBAPIError:  # workers that create the tables of a new database at the same time
            time.sleep(pause)
    return optuna.storages.RDBStorage(url)


def _sampler(sweep: Sweep) -> optuna.samplers.BaseSampler:
    if sweep.method == "bayes":
        return optuna.samplers.TPESampler(constant_liar=True)
    return optuna.samplers.RandomSampler()


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    early = sweep.early_terminate
    if early is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=early.min_iter,
        max_resource="auto" if early.max_iter is None else early.max_iter,
        reduction_factor=early.eta,
    )


def _entry(trial: FrozenTrial) -> Entry:
    attrs, state = trial.user_attrs, trial.state
    names = {
        TrialState.WAITING: "waiting",
        TrialState.RUNNING: _running(trial),
        TrialState.COMPLETE: "done",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    overrides = attrs.get("overrides")
    return Entry(
        number=attrs["number"],
        state=names[state],
        overrides=None if overrides is None else tuple(overrides),
        value=trial.value if state == TrialState.COMPLETE else None,
        error=attrs.get("error"),
    )


def _running(trial: FrozenTrial) -> str:
    if not _lost(trial):
        return "running"
    return "stopped" if trial.user_attrs.get("seen") == _RELEASED else "lost"


def _lost(trial: FrozenTrial) -> bool:
    """Whether no worker trains a running trial any more."""
    host, process = trial.user_attrs.get("worker", [None, None])
    started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    if time.time() - trial.user_attrs.get("seen", started) > DEAD:
        return True
    return host == _HOST and not Path(f"/proc/{process}").exists() and Path("/proc/self").exists()
