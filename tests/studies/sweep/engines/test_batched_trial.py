"""Laws of one batched trial: its loop is that of `dst train`, and its end reaches the storage."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import pytest

from dst.studies import sweep
from dst.studies.sweep.engines.groups import candidate
from dst.studies.sweep.engines.vmap import BatchedTrial
from dst.studies.sweep.storage import Storage
from dst.studies.sweep.trial import Trial
from dst.train import loop
from dst.train.records import run_dir
from dst.train.work import Alone, Update
from tests.faults import records
from tests.studies.sweep.test_spec import write
from tests.studies.sweep.test_sweep import TWO
from tests.training import assert_same, states_in


class Own:
    """A logger of the user's own."""

    def __init__(self, config, where, start):
        self.file = (where / "own.txt").open("a")

    def log(self, step, kind, values):
        print(step, kind, *sorted(values), file=self.file)

    def close(self, summary):
        end = "nothing" if summary is None else f"{summary['steps']} steps"
        print(f"closed with {end}", file=self.file)
        self.file.close()


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, TWO.replace("[0, 1]", "[0]"))
    with (tmp_path / "small.yaml").open("a") as config:
        config.write(f'loggers: [{{import: "{__name__}:Own"}}]\n')
    toy = sweep.load(path)
    return toy, Storage(toy, tmp_path / "journal.log")


@pytest.fixture
def trial(storage, tmp_path):
    toy, trials = storage
    return Trial(toy, trials.assign(), tmp_path / "00000")


def called(work):
    """The result of what a trial wants, which leaves the state as it was."""
    if isinstance(work, Update):
        held, *others = work.call.args
        copy = jax.tree.map(jnp.copy, held.state)
        return work.call.func(Alone(copy), *others, **work.call.keywords)
    return work.call()


def outcome(storage):
    (entry,) = storage[1].entries()
    return entry.state, entry.error


@pytest.mark.evidence
def test_its_loop_is_the_run_that_trains_alone(storage, trial, tmp_path, capsys):
    threads = threading.active_count()
    one = candidate(trial, trial.sweep.command)
    batched, result, calls = BatchedTrial(one), None, 0
    while (work := batched.advance(result)) is not None:
        result, calls = called(work), calls + isinstance(work, Update)
    assert outcome(storage) == ("done", None) and calls == 40
    assert threading.active_count() == threads
    assert capsys.readouterr().out == "" and "after 40 steps in" in trial.log.read_text()
    loop.train(one.pieces.config, tmp_path / "alone")
    assert records(trial.run) == records(tmp_path / "alone")
    own = [(path / "own.txt").read_text() for path in (trial.run, tmp_path / "alone")]
    assert own[0] == own[1] and own[0].endswith("\nclosed with 40 steps\n")
    assert (trial.run / run_dir.REPORT).is_file()
    assert_same(states_in(trial.run)[40], states_in(tmp_path / "alone")[40])


def test_a_failed_update_fails_it(storage, trial):
    batched = BatchedTrial(candidate(trial, trial.sweep.command))
    assert batched.advance(None) is not None
    assert batched.advance(MemoryError("too large")) is None
    assert outcome(storage) == ("failed", "MemoryError: too large")
    assert "Traceback" in trial.log.read_text()
    assert not trial.in_use


def test_one_that_is_behind_ends_at_its_next_update(storage, trial):
    batched = BatchedTrial(candidate(trial, trial.sweep.command))
    work = batched.advance(None)
    trial.behind = True
    assert batched.advance(called(work)) is None
    assert outcome(storage) == ("pruned", None) and not trial.in_use
