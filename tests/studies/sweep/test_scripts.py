"""A sweep over a training script of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dst import cli
from dst.studies import sweep
from dst.studies.sweep.command import Script, Train
from dst.studies.sweep.spec import SweepError

SCRIPT = """
import jax.numpy as jnp, optax
import dst, dst.train

settings = dst.train.arguments({"seed": 0, "sparsity": 0.5, "method": {"rate": 0.1}})
tx = dst.sparsify(optax.sgd(settings["method"]["rate"]), dst.Static(settings["sparsity"]))
params = {"w": jnp.ones((8, 8))}
state = tx.init(params)
params = dst.apply_masks(params, state)
with dst.train.Recorder("runs/never", tx, state, settings) as recorder:
    if settings["sparsity"] == 0.75:
        raise SystemExit("error: this one fails")
    if settings["sparsity"] != 0.25:
        recorder.finish(state, params, quality=float((params["w"] != 0).mean()))
"""
SWEEP = """
command: [{command}"${{args_no_hyphens}}"]
program: mine.py
method: grid
metric: {{name: quality, goal: maximize}}
parameters:
  sparsity: {{values: [0.5, 0.75, 0.25]}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SCRIPT)
    return tmp_path


def load(command):
    Path("sweep.yaml").write_text(SWEEP.format(command=command))
    return sweep.load("sweep.yaml")


@pytest.mark.parametrize(
    ("command", "fixed"),
    [
        ("python, mine.py, ", ()),
        ('"${env}", "${interpreter}", "${program}", method.rate=1, ', ("method.rate=1",)),
        ("/usr/bin/env, python3, mine.py, ", ()),
    ],
)
def test_a_command_may_be_a_script(here, command, fixed):
    assert load(command).command == Script(Path("mine.py"), fixed)


def test_a_command_of_dst_is_one_of_dst(here):
    config = Path(__file__).parents[3] / "configs/digits/rigl.yaml"
    text = SWEEP.format(command=f"dst, train, {config}, ").replace("quality", "accuracy")
    Path("sweep.yaml").write_text(text.replace("  sparsity", "  method.sparsity"))
    assert sweep.load("sweep.yaml").command == Train(config)


def test_a_script_that_is_not_there_and_other_commands_are_refused(here):
    with pytest.raises(SweepError, match="line 2: command: expected a training script.*other.py"):
        load("python, other.py, ")
    with pytest.raises(SweepError, match=r"\[python, SCRIPT, '\$\{args_no_hyphens\}'\]"):
        load("bash, mine.py, ")
    with pytest.raises(SweepError, match="no option such as '--x'"):
        load("python, mine.py, --x, ")


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/x", "a b", "''", ".", "[a]", "null", "3"])
def test_a_sweep_is_named_as_a_run_is(here, name):
    Path("sweep.yaml").write_text(f"name: {name}\n" + SWEEP.format(command="python, mine.py, "))
    with pytest.raises(SweepError, match=r"line 1: name must be letters, digits.*directory"):
        sweep.load("sweep.yaml")


def test_a_password_is_shown_nowhere(here, capsys):
    load("python, mine.py, ")
    url = "postgresql+nothing://me:secret@localhost/db"
    assert cli.main(["sweep", "sweep.yaml", "--storage", url]) != 0
    assert cli.main(["sweep", "sweep.yaml", "--storage", url, "--what"]) != 0
    shown = capsys.readouterr()
    assert "me:***@localhost" in shown.err and "secret" not in shown.out + shown.err


def test_scripts_share_no_program(here):
    with pytest.raises(SweepError, match="found the script mine.py. Use --engine processes"):
        sweep.run(load("python, mine.py, "), here / "out", engine="vectorised")
    assert not (here / "out").exists()


@pytest.mark.evidence
def test_trials_of_a_script_are_run_directories_with_the_metric(here):
    results = sweep.run(load("python, mine.py, "), here / "out")
    states = [(x["state"], x["value"]) for x in results["trials"]]
    assert states == [("done", 0.5), ("failed", None), ("failed", None)]
    assert results["best"] == 0
    errors = [x["error"] for x in results["trials"]]
    assert "this one fails" in errors[1] and "dst.train.Recorder.finish" in errors[2]
    done = here / "out" / results["trials"][0]["directory"]
    assert json.loads((done / "summary.json").read_text())["quality"] == 0.5
    assert not (here / "runs").exists()
