"""Laws of sweeps under W&B's agents: what they pass arrives."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from dst import cli
from dst.cli import train
from dst.studies import sweep
from dst.train.config.sections import Wandb
from tests.agents import IDENTITY, started
from tests.studies.sweep.test_spec import write
from tests.training import ROOT

DIGITS = ROOT / "configs/digits/sweep.yaml"


def trained(monkeypatch, command, environment):
    """The config and the directory with which a command would start ``dst train``."""
    calls = []

    class Loop:
        def train(self, settings, where, overwrite, report):
            calls.append((settings, where))

    assert command[0] == "dst"
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(train, "run", lambda where, source, start: start(Loop(), None) or 0)
        assert cli.main(command[1:]) == 0
    return calls[0]


def literal(text):
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def test_an_agent_trains_what_the_sweep_here_trains(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.chdir(ROOT)
    digits = sweep.load(DIGITS)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for overrides in digits.trials()[::5]:
        arguments = {k: literal(v) for k, _, v in (x.partition("=") for x in overrides)}
        monkeypatch.chdir(tmp_path)  # where the agent writes the parameters
        command, environment = started(monkeypatch, DIGITS, arguments)
        assert command[4:] == list(overrides)
        monkeypatch.chdir(ROOT)
        settings, where = trained(monkeypatch, command, environment)
        ours = digits.command.load(overrides)
        assert settings == replace(ours, wandb=Wandb(mode="offline"))
        assert where == Path("runs") / f"{ours.name}-{IDENTITY['WANDB_RUN_ID']}"


REPRS = {
    "nested text": ({"method": {"name": "set"}}, "method.name", "set"),
    "nested numbers merge": ({"method": {"sparsity": 0.5}}, "method.value.every", 10),
    "a small number": ({"optimizer.learning_rate": 1e-05}, "optimizer.value.learning_rate", 1e-05),
    "true": ({"mesh.fully_sharded": True}, "mesh.fully_sharded", True),
    "none": ({"optimizer": {"clip": None}}, "optimizer.value.clip", None),
    "none, dotted": ({"optimizer.clip": None}, "optimizer.value.clip", None),
    "text": ({"train.on_nonfinite": "skip"}, "train.on_nonfinite", "skip"),
    "percent": ({"train.eval_every": "5%"}, "train.eval_every", "5%"),
    "a list": ({"model": {"hidden": [8, 4]}}, "model.value.hidden", (8, 4)),
    "a list of text": ({"train.snapshots": ["50%"]}, "train.snapshots", ("50%",)),
    "an integer": ({"seed": 3}, "seed", 3),
}


@pytest.mark.parametrize("case", REPRS)
def test_python_values_arrive_as_they_are(case, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    arguments, path, expected = REPRS[case]
    command, environment = started(monkeypatch, write(tmp_path), arguments)
    settings, _ = trained(monkeypatch, command, environment)
    value = settings
    for name in path.split("."):
        value = getattr(value, name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(("mode_of_agent", "mode"), [(None, "online"), ("offline", "offline")])
def test_a_run_of_an_agent_reports_to_it(mode_of_agent, mode, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    environment = {} if mode_of_agent is None else {"WANDB_MODE": mode_of_agent}
    path = write(tmp_path)
    settings, where = trained(monkeypatch, ["dst", "train", "small.yaml"], IDENTITY | environment)
    assert settings.wandb.mode == mode and where.name == "small-run00001"
    settings, _ = trained(
        monkeypatch, ["dst", "train", "small.yaml", "wandb.mode=disabled"], IDENTITY
    )
    assert settings.wandb.mode == "disabled"  # the command has the last word
    settings, where = trained(monkeypatch, ["dst", "train", "small.yaml"], {})
    assert settings.wandb.mode == "disabled" and where.name == "small"
    assert path.is_file()
