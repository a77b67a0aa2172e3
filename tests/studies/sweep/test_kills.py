"""Laws of a sweep's storage: no trial is taken twice, and none is lost, whoever is killed."""

from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
from optuna.trial import TrialState

from dst.studies import sweep
from dst.studies.sweep.storage import Storage
from dst.train import loop
from dst.train.config import run as config
from dst.train.records import checkpoint
from tests import postgres
from tests.faults import records
from tests.studies.sweep.test_spec import write

pytestmark = pytest.mark.evidence

GRID = """
name: toy
command: [dst, train, small.yaml, SETTINGS, "${args_no_hyphens}"]
method: grid
metric: {name: accuracy, goal: maximize}
parameters:
  seed: {values: SEEDS}
"""
ARGUMENTS = [sys.executable, "-m", "dst.cli", "sweep", "toy.yaml"]


@pytest.fixture(params=["journal", "postgresql"])
def storage(request, tmp_path, monkeypatch):
    """A storage as --storage has it; None: the journal in the directory."""
    monkeypatch.chdir(tmp_path)
    if request.param == "journal":
        yield None
    else:
        with postgres.server() as url:
            yield url


def planned(folder: Path, seeds: int, settings: str) -> list[int]:
    text = GRID.replace("SEEDS", str(list(range(seeds)))).replace("SETTINGS", settings)
    write(folder, text)
    return list(range(seeds))


def command(storage: str | None, *more: str) -> list[str]:
    return [*ARGUMENTS, *more, *(["--storage", storage] if storage else [])]


def attempts(folder: Path, storage: str | None) -> list[optuna.trial.FrozenTrial]:
    """The entries of trials that were assigned to a worker."""
    opened = Storage(sweep.load("toy.yaml"), storage or folder / "runs/toy/journal.log")
    taken = [x for x in opened._trials() if x.state != TrialState.WAITING]
    if isinstance(opened._storage, optuna.storages.RDBStorage):
        opened._storage.remove_session()
        opened._storage.engine.dispose()  # the server is about to go
    return taken


def take_all(storage: str | Path, ready: object, taken: object) -> None:
    """A worker that only takes trials."""
    toy = sweep.load("toy.yaml")
    ready.wait()
    opened = Storage(toy, storage)  # all create the tables, and write the plan
    while (assignment := opened.assign()) is not None:
        taken.put(assignment.number)
        assignment.done(0.5)


def test_hasty_workers_take_every_trial_once(storage, tmp_path):
    workers, numbers = 4, planned(tmp_path, 40, "train.steps=20")
    context = multiprocessing.get_context("spawn")
    ready, taken = context.Barrier(workers), context.SimpleQueue()
    arguments = (storage or tmp_path / "journal.log", ready, taken)
    running = [context.Process(target=take_all, args=arguments) for _ in range(workers)]
    for process in running:
        process.start()
    numbers_taken = []
    while any(x.is_alive() for x in running) or not taken.empty():
        while not taken.empty():
            numbers_taken.append(taken.get())
        time.sleep(0.02)
    assert [x.exitcode for x in running] == [0] * workers
    assert sorted(numbers_taken) == numbers
    print(f"{workers} workers took {len(numbers_taken)} trials, each once")


def test_two_sweeps_train_every_trial_once(storage, tmp_path):
    numbers = planned(tmp_path, 6, "train.steps=20")
    first, second = (subprocess.Popen(command(storage)) for _ in range(2))
    assert (first.wait(), second.wait()) == (0, 0)
    trials = attempts(tmp_path, storage)
    assert sorted(x.user_attrs["number"] for x in trials) == numbers
    assert {x.state for x in trials} == {TrialState.COMPLETE}
    share = Counter(x.user_attrs["worker"][1] for x in trials)
    assert share.keys() == {first.pid, second.pid}
    for number in numbers:
        log = (tmp_path / f"runs/toy/trials/{number:05d}.log").read_text()
        assert log.count("after 20 steps in") == 1 and "in use" not in log
    print(f"two workers trained {sorted(share.values())} of {len(numbers)} trials, each once")


KILLS = 5


def progress(trials: Path) -> int:
    """Steps of all trials that a checkpoint holds."""
    saved = (checkpoint.steps(run / "checkpoints") for run in trials.glob("?????"))
    return sum(max(steps, default=0) for steps in saved)


def test_a_sweep_that_is_killed_five_times_ends_with_its_trials(storage, tmp_path):
    steps, chance = 2000, random.Random(0)
    settings = f"train={{'steps': {steps}, 'checkpoint_every': 50, 'log_every': 50}}"
    numbers = planned(tmp_path, 6, f'"{settings}"')
    trials, whole = tmp_path / "runs/toy/trials", len(numbers) * steps

    for kill in range(KILLS):
        process = psutil.Popen(command(storage, "--workers", "2"))
        goal = progress(trials) + chance.randrange(100, 500)
        while progress(trials) < goal:
            assert process.poll() is None, "over before it could be killed"
            time.sleep(0.02)
        # Every second time its trials outlive it, and continue.
        victims = [process] if kill % 2 else [process, *process.children(recursive=True)]
        for victim in victims:
            victim.kill()
        assert process.wait() == -9
        print(
            f"kill {kill + 1}: {len(victims)} processes, {progress(trials)} of {whole} steps done"
        )
    assert progress(trials) < whole
    assert subprocess.run(command(storage, "--workers", "2")).returncode == 0

    results = json.loads((tmp_path / "runs/toy/sweep.json").read_text())["trials"]
    assert [(x["number"], x["state"]) for x in results] == [(n, "done") for n in numbers]
    entries = attempts(tmp_path, storage)
    ended = [x.user_attrs["number"] for x in entries if x.state == TrialState.COMPLETE]
    assert sorted(ended) == numbers
    print(f"{len(entries)} attempts at {len(numbers)} trials, {len(ended)} complete")
    for trial in results:  # each is the run that was never killed
        run = tmp_path / "runs/toy" / trial["directory"]
        lines = records(run)
        logged = [x["step"] for x in lines if x["kind"] == "train"]
        assert logged == list(range(50, steps + 1, 50))
        alone = tmp_path / "alone" / run.name
        loop.train(config.load("small.yaml", [settings, *trial["overrides"]]), alone)
        assert lines == records(alone)


def test_a_vectorised_sweep_that_is_killed_five_times_ends_like_one_that_never_was(tmp_path):
    """Its trials train in one program, and have checkpoints of different steps when it dies."""
    steps, chance = 2000, random.Random(1)
    settings = f"train={{'steps': {steps}, 'checkpoint_every': 50, 'log_every': 50}}"
    ends = []
    for name, kills in (("whole", 0), ("killed", KILLS)):
        folder = tmp_path / name
        folder.mkdir()
        numbers = planned(folder, 4, f'"{settings}"')
        trials, whole = folder / "runs/toy/trials", len(numbers) * steps
        for kill in range(kills):
            process = psutil.Popen([*ARGUMENTS, "--engine", "vectorised"], cwd=folder)
            goal = progress(trials) + chance.randrange(100, 1000)
            while progress(trials) < goal:
                assert process.poll() is None, "over before it could be killed"
                time.sleep(0.02)
            process.kill()
            assert process.wait() == -9
            print(f"kill {kill + 1}: {progress(trials)} of {whole} steps done")
        command = [*ARGUMENTS, "--engine", "vectorised"]
        assert subprocess.run(command, cwd=folder).returncode == 0
        results = json.loads((folder / "runs/toy/sweep.json").read_text())["trials"]
        assert [(x["number"], x["state"]) for x in results] == [(n, "done") for n in numbers]
        ends.append(results)
        assert not list(trials.rglob("*.part"))
    for one, other in zip(*ends, strict=True):
        runs = [tmp_path / n / "runs/toy" / one["directory"] for n in ("whole", "killed")]
        for line, same in zip(*map(records, runs), strict=True):
            assert (line["step"], line["kind"], line.keys()) == (
                same["step"],
                same["kind"],
                same.keys(),
            )
            assert line.get("sparsity") == same.get("sparsity")
            # Which trials wait for which decides how many rows a product has, and so its rounding.
            if "loss" in line:
                np.testing.assert_allclose(line["loss"], same["loss"], rtol=1e-3)
        assert one["value"] == pytest.approx(other["value"], abs=0.01)
