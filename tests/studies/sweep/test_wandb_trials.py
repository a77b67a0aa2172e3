"""Laws of trials in W&B: a sweep is a group there, whichever engine trains."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import psutil
import pytest

from dst.studies import sweep
from dst.studies.sweep.trial import Trial
from tests import offline
from tests.faults import dst as command
from tests.faults import ended, records
from tests.studies.sweep.test_spec import write

GRID = """
name: "2024"
command: [dst, train, small.yaml, train.steps=STEPS, WANDB, "${args_no_hyphens}"]
method: grid
metric: {name: accuracy, goal: maximize}
parameters:
  seed: {values: [0, 1]}
  method.sparsity: {values: [0.8, 0.6]}
"""
ALL = "\"wandb={'mode': 'offline', 'tags': ['t'], 'artifacts': ['masks', 'checkpoint', 'report']}\""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def toy(tmp_path, wandb=ALL, steps=40):
    return write(tmp_path, GRID.replace("WANDB", wandb).replace("STEPS", str(steps)))


class Assigned:
    """What a trial needs of its assignment."""

    number, overrides = 3, ("seed=1",)


@pytest.mark.parametrize(
    ("own", "group", "job_type"),
    [
        ("seed=0", "2024", "trial"),
        ("wandb.group=mine", "mine", "trial"),
        ("\"wandb={'job_type': 'ablation', 'group': null}\"", "2024", "ablation"),
    ],
)
def test_trials_are_grouped_by_sweep_unless_the_config_says_otherwise(
    own, group, job_type, tmp_path
):
    trial = Trial(sweep.load(toy(tmp_path, own)), Assigned(), tmp_path / "run")
    settings = trial.sweep.command.load(trial.overrides)
    assert (settings.wandb.group, settings.wandb.job_type) == (group, job_type)
    assert settings.wandb.mode == "disabled" and settings.name == "2024-00003"


@pytest.mark.evidence
@pytest.mark.parametrize("engine", ["processes", "vectorised"])
def test_every_trial_of_a_sweep_reads_back(engine, tmp_path):
    pytest.importorskip("wandb")
    toy(tmp_path)
    offline.dst(tmp_path, "sweep", "toy.yaml", "--engine", engine)
    where = tmp_path / "runs/2024"
    trials = json.loads((where / "sweep.json").read_text())["trials"]
    assert len(trials) == 4
    for trial in trials:
        run = where / trial["directory"]
        assert (run / "report.html").is_file()
        (record,) = offline.parts(run)
        start = record.start
        assert (start["run_group"], start["job_type"], start["tags"]) == ("2024", "trial", ["t"])
        assert start["display_name"] == f"2024-{trial['number']:05d}"
        assert (
            start["config"]["update"]["method"]["sparsity"] == trial["settings"]["method.sparsity"]
        )
        lines = records(run)
        for line in lines:
            there = record.rows[line["step"]]
            assert there["step"] == line["step"]
            name = "train/loss" if line["kind"] == "train" else "sparsity"
            assert there[name] == pytest.approx(line[name.removeprefix("train/")], rel=1e-6)
        accuracies = [x["accuracy"] for x in lines if x["kind"] == "eval"]
        expected = {"max": max(accuracies), "last": trial["value"]}
        assert record.summary["accuracy"] == pytest.approx(expected, rel=1e-6)
        name = start["display_name"]
        kinds = {f"{name}-{x}" for x in ("masks", "checkpoint", "report")}
        assert kinds < record.artifacts.keys()


@pytest.mark.evidence
def test_a_service_that_is_killed_costs_each_trial_one_warning(tmp_path):
    pytest.importorskip("wandb")
    steps = 300
    toy(tmp_path, steps=steps)
    words = ("sweep", "toy.yaml", "--engine", "vectorised")
    process = command(*words, **offline.environment(tmp_path))
    metrics = tmp_path / "runs/2024/trials/00003/metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size > 1000):
        assert process.poll() is None, ended(process)
        time.sleep(0.1)
    killed = 0
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "wandb-core" in child.name():
                child.kill()
                killed += 1
    code, out, err = ended(process)
    assert killed and code == 0, err
    assert "one program: trials 0, 1, 2, 3" in out
    for number in range(4):
        run = tmp_path / f"runs/2024/trials/{number:05d}"
        log = run.with_suffix(".log").read_text()
        assert log.count("warning: Weights & Biases") == 1, log
        assert records(run)[-1]["step"] == steps and (run / "report.html").is_file()
