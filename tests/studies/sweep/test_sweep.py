"""Laws of sweeps: every planned trial once, whatever happens to workers."""

from __future__ import annotations

import csv
import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest

from dst import cli
from dst.studies import sweep
from dst.studies.sweep import storage
from dst.studies.sweep.command import MEASURED
from dst.studies.sweep.driver import FILE as KEPT
from dst.train import loop
from dst.train.config import run as config
from dst.train.objectives.figures import FIGURES
from tests.faults import records
from tests.studies.sweep.test_spec import write
from tests.training import assert_same, states_in

TWO = """
name: toy
command: [dst, train, small.yaml, "${args_no_hyphens}"]
method: grid
metric: {name: accuracy, goal: maximize}
parameters:
  seed: {values: [0, 1]}
  method.sparsity: {values: [0.8]}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _storage(tmp_path, text=TWO):
    return storage.Storage(sweep.load(write(tmp_path, text)), tmp_path / "journal.log")


def test_two_workers_never_have_the_same_trial(tmp_path):
    first, second = _storage(tmp_path), _storage(tmp_path)  # both have written the plan
    one, two = first.assign(), second.assign()
    assert {one.number, two.number} == {0, 1}
    assert first.assign() is None and second.assign() is None
    one.done(0.5)
    two.failed("why")
    assert [(x.state, x.value, x.error) for x in first.entries()] == [
        ("done", 0.5, None),
        ("failed", None, "why"),
    ]
    assert _storage(tmp_path).assign() is None


def test_of_the_same_attempt_twice_the_older_counts(tmp_path):
    first, second = _storage(tmp_path), _storage(tmp_path)
    mine = first.assign()
    second._write(mine.number, 0, mine.overrides)  # as a worker that read before the first wrote
    assert [x.state for x in second.entries()] == ["running", "waiting"]
    assert second.assign().number == 1 and second.assign() is None


@pytest.mark.parametrize(("silent", "state"), [(0.5, "running"), (1.5, "lost")])
def test_a_worker_elsewhere_is_dead_after_a_silence(silent, state, tmp_path):
    trials = _storage(tmp_path)
    assignment = trials.assign()
    assignment._set("worker", ["another-host", 1])
    assignment._set("seen", time.time() - silent * storage.DEAD)
    assert trials.entries()[0].state == state


def test_a_worker_elsewhere_may_announce_a_silence(tmp_path, monkeypatch):
    trials, now = _storage(tmp_path), time.time()
    assignment = trials.assign()
    assignment._set("worker", ["another-host", 1])
    assignment.alive(silence=600)
    for later, state in ((600, "running"), (661, "lost")):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert trials.entries()[0].state == state


@pytest.mark.parametrize(
    ("sign", "state"),
    [(("seen", 0.0), "stopped"), (("worker", [socket.gethostname(), 2**30]), "lost")],
    ids=["released", "killed"],
)
def test_what_a_dead_worker_had_is_taken_by_one(sign, state, tmp_path):
    first, second, third = (_storage(tmp_path) for _ in range(3))
    lost = first.assign()
    assert second.assign().number == 1
    assert third.assign() is None
    lost._set(*sign)
    assert [x.state for x in third.entries()] == [state, "running"]
    again = [second.assign(), third.assign()]
    assert [x.number for x in again if x is not None] == [0]
    assert [x.state for x in first.entries()] == ["running", "running"]
    assert again[0].overrides == lost.overrides


def test_bayesian_search_chooses_by_what_came_out(tmp_path, monkeypatch):
    sampler = optuna.samplers.TPESampler(seed=0)
    monkeypatch.setattr(storage, "_sampler", lambda _: sampler)
    text = TWO.replace("grid", "bayes\nrun_cap: 30").replace(
        "{values: [0.8]}", "{min: 0.1, max: 0.9}"
    )
    trials = _storage(tmp_path, text)
    for _ in range(30):
        assignment = trials.assign()
        method = config.load("small.yaml", assignment.overrides).method.value
        assignment.done(-abs(method.sparsity - 0.4))
    assert trials.assign() is None
    errors = [-x.value for x in trials.entries()]
    assert np.mean(errors[20:]) < 0.7 * np.mean(errors[:10])  # Optuna's first ten are random
    again = _storage(tmp_path, text)
    assert [x.overrides for x in again.entries()] == [x.overrides for x in trials.entries()]


def test_another_file_of_the_same_name_is_refused(tmp_path):
    _storage(tmp_path)
    with pytest.raises(sweep.SweepError, match="another sweep of the name 'toy'"):
        _storage(tmp_path, TWO.replace("[0, 1]", "[0, 1, 2]"))


def test_a_sweep_is_its_runs_and_a_failed_one_stops_no_other(tmp_path, capsys):
    # 5000 examples are more than there are: only the data set can tell, when the trial starts.
    text = (
        TWO.replace("{values: [0, 1]}", "{value: 0}") + "  data.batch_size: {values: [64, 5000]}\n"
    )
    write(tmp_path, text)
    assert cli.main(["sweep", "toy.yaml", "--workers", "2"]) == 1
    printed = capsys.readouterr()
    assert (
        "error: trial 1: exit code 2: error: " in printed.err and "data.batch_size" in printed.err
    )
    results = json.loads((tmp_path / "runs/toy/sweep.json").read_text())
    assert [x["state"] for x in results["trials"]] == ["done", "failed"]
    assert results["best"] == 0 and "best: trial 0, accuracy" in printed.out
    assert printed.out.endswith("report: runs/toy/report.html\n")
    with (tmp_path / "runs/toy/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [x["data.batch_size"] for x in rows] == ["64", "5000"]
    assert [x["value"] for x in rows] == [str(results["trials"][0]["value"]), ""]
    # The trial is the run of `dst train`.
    alone = config.load("small.yaml", ["seed=0", "method.sparsity=0.8"])
    loop.train(alone, tmp_path / "alone")
    trial = tmp_path / "runs/toy/trials/00000"
    figures = json.loads((trial / "summary.json").read_text())
    numbers = {k for k, x in figures.items() if isinstance(x, int | float)}
    ema = {x for x in MEASURED if x.startswith("ema_")}
    assert numbers == set(MEASURED) - ema - (FIGURES.keys() - {"accuracy"})
    assert records(trial) == records(tmp_path / "alone")
    assert_same(states_in(trial)[40], states_in(tmp_path / "alone")[40])
    # Again: nothing is repeated, and another file is not mixed in.
    before = (trial / "metrics.jsonl").stat().st_mtime_ns
    assert cli.main(["sweep", "toy.yaml"]) == 1
    assert (trial / "metrics.jsonl").stat().st_mtime_ns == before
    write(tmp_path, text.replace("5000", "6000"))
    assert cli.main(["sweep", "toy.yaml"]) == 2
    assert "holds another sweep" in capsys.readouterr().err
    assert (tmp_path / "runs/toy" / KEPT).read_text() == text


@pytest.mark.evidence
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_stopped_sweep_continues_its_trials(number, tmp_path):
    long = TWO.replace("[0, 1]", "[0]").replace(
        "small.yaml,", "small.yaml, train.steps=600, train.checkpoint_every=20,"
    )
    write(tmp_path, long)
    run = tmp_path / "runs/toy/trials/00000"
    command = [sys.executable, "-m", "dst.cli", "sweep", "toy.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path)
    while not list(run.glob("checkpoints/0*20")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait() == (75 if number == signal.SIGTERM else -9)
    assert cli.main(["sweep", "toy.yaml"]) == 0
    results = json.loads((tmp_path / "runs/toy/sweep.json").read_text())
    assert [x["state"] for x in results["trials"]] == ["done"]
    steps = [x["step"] for x in records(run) if x["kind"] == "train"]
    assert steps == list(range(5, 601, 5))
