"""Laws of the sweep file beside W&B: both accept the same, and plan the same trials."""

from __future__ import annotations

import json
import subprocess
import venv

import pytest
import yaml

from dst.studies import sweep
from dst.studies.sweep import SweepError
from dst.train.config import plain_data
from tests.studies.sweep.test_spec import write
from tests.training import ROOT, SWEEPS


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_sweep_file_says_the_same_to_both(path):
    # W&B reads YAML 1.1, in which 1e-3 is text and `no` is false.
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == plain_data.read(path)


# W&B's own validation and grid search, in a virtual environment.
THEIRS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import sweeps, yaml

def refused(config):
    try:
        return sweeps.schema_violations_from_proposed_config(config)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]

def trials(config):
    return [x.config for x in sweeps.next_runs(config, [], n=10_000) if x is not None]

asked = json.load(sys.stdin)
json.dump({
    "refused": {name: refused(yaml.safe_load(text)) for name, text in asked["check"].items()},
    "trials": {name: trials(yaml.safe_load(text)) for name, text in asked["grids"].items()},
}, sys.stdout)
"""


def wandb_says(folder, check, grids):
    """What W&B's package `sweeps` answers."""
    environment = folder / "sweeps"
    venv.create(environment, with_pip=True)
    python = environment / "bin/python"
    # It asks for NumPy 1, so it is no dependency of ours.
    install = [python, "-m", "pip", "install", "--quiet", "sweeps==0.3.0"]
    pip = subprocess.run(install, capture_output=True, text=True)
    if pip.returncode:
        pytest.skip(f"sweeps cannot be installed here: {pip.stderr.strip().splitlines()[-1]}")
    asked = json.dumps({"check": check, "grids": grids})
    answer = subprocess.run(
        [python, "-c", THEIRS], input=asked, capture_output=True, text=True, cwd=folder
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


TOY = """
name: toy
command: [dst, train, small.yaml, "${args_no_hyphens}"]
method: random
run_cap: 3
metric: {name: accuracy, goal: maximize}
parameters:
  seed: {values: [0, 1]}
"""
X = "optimizer.learning_rate: "


def altered(*changes):
    text = TOY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def with_parameter(line):
    return TOY + f"  {line}\n"


BOTH_ACCEPT = {
    "a random search": TOY,
    "a grid": altered(("method: random", "method: grid")),
    "bayes": altered(("method: random", "method: bayes")),
    "no metric": altered(("metric: {name: accuracy, goal: maximize}\n", "")),
    "a metric without a goal": altered((", goal: maximize", "")),
    "what is theirs": TOY + "program: x.py\nproject: p\nentity: e\ndescription: d\n",
    "hyperband": TOY + "early_terminate: {type: hyperband, min_iter: 2}\n",
    "hyperband from its end": TOY + "early_terminate: {type: hyperband, max_iter: 9, s: 2}\n",
    "nested": with_parameter("method: {parameters: {name: {value: set}, sparsity: {value: 0.5}}}"),
    "a dictionary": with_parameter("method: {value: {name: set}}"),
    "probabilities": with_parameter(X + "{values: [0.1, 0.2], probabilities: [0.5, 0.5]}"),
    "uniform": with_parameter(X + "{min: 0.1, max: 0.2}"),
    "integers": with_parameter("data.batch_size: {min: 32, max: 64}"),
    "logarithmic": with_parameter(
        X + "{distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}"
    ),
    "rounded": with_parameter(X + "{distribution: q_uniform, min: 0.1, max: 0.9, q: 0.2}"),
    "a bell": with_parameter(X + "{distribution: log_normal, mu: -5, sigma: 0.1}"),
}
BOTH_REFUSE = {
    "an unknown key": TOY + "metrik: 3\n",
    "no method": altered(("method: random\n", "")),
    "another method": altered(("random", "gird")),
    "no parameters": TOY[: TOY.index("parameters:")],
    "empty parameters": altered(
        ("  seed: {values: [0, 1]}\n", ""), ("parameters:", "parameters: {}")
    ),
    "no values": altered(("[0, 1]", "[]")),
    "a parameter that is no mapping": altered(("{values: [0, 1]}", "[0, 1]")),
    "a number too many": with_parameter(X + "{value: 0.1, max: 3}"),
    "a number too few": with_parameter(X + "{min: 0.1}"),
    "text for a number": with_parameter(X + "{min: low, max: 3.0}"),
    "the wrong way round": with_parameter(X + "{min: 0.2, max: 0.1}"),
    "an unknown distribution": with_parameter(X + "{distribution: gamma, min: 0.1}"),
    "probabilities of two": with_parameter(X + "{values: [0.1, 0.2], probabilities: [0.5, 0.6]}"),
    "probabilities of one": with_parameter(X + "{values: [0.1, 0.2], probabilities: [1]}"),
    "probabilities beside another name": with_parameter(
        X + "{distribution: categorical, values: [0.1, 0.2], probabilities: [0.5, 0.5]}"
    ),
    "no step": with_parameter(X + "{distribution: q_uniform, min: 0.1, max: 0.9, q: 0}"),
    "no trials": altered(("run_cap: 3", "run_cap: 0")),
    "half a trial": altered(("run_cap: 3", "run_cap: 2.5")),
    "another goal": altered(("maximize", "best")),
    "a nameless metric": altered(("name: accuracy, ", "")),
    "another stop": TOY + "early_terminate: {type: envelope}\n",
    "a stop from nowhere": TOY + "early_terminate: {type: hyperband, max_iter: 9}\n",
    "settings": TOY + "settings: {}\n",
}
# Refused here and not there, with the reason.
ONLY_THEY_ACCEPT = {
    "no end of trials": (altered(("run_cap: 3\n", "")), "a sweep here has an end"),
    "no command": (
        TOY.replace(TOY.splitlines()[2] + "\n", ""),
        "theirs starts `program`, ours needs the config",
    ),
    "arguments with hyphens": (altered(("${args_no_hyphens}", "${args}")), "dst has key=value"),
    "a grid over a continuum": (
        altered(("random\nrun_cap: 3", "grid"), ("{values: [0, 1]}", "{min: 0.1, max: 0.2}")),
        "their search refuses it later",
    ),
    "a grid larger than its cap": (
        altered(("random\nrun_cap: 3", "grid\nrun_cap: 1")),
        "some of the grid would be left out without a word",
    ),
    "an unknown parameter": (with_parameter("sed: {value: 1}"), "they do not know the config"),
    "a bad value": (with_parameter("method.sparsity: {value: 9}"), "they do not know the config"),
    "a target": (altered(("maximize", "maximize, target: 0.9")), "only their server has it"),
    "a beta distribution": (
        with_parameter(X + "{distribution: beta}"),
        "Optuna has no such distribution",
    ),
    "a bell without width": (
        with_parameter(X + "{distribution: normal, mu: 0.1, sigma: 0}"),
        "that is a value",
    ),
    "a fractional eta": (
        TOY + "early_terminate: {type: hyperband, min_iter: 2, eta: 1.5}\n",
        "Optuna's is an integer",
    ),
    "a local controller": (TOY + "controller: {type: local}\n", "theirs"),
}
ONLY_WE_ACCEPT = {
    "a number of YAML 1.2": (
        with_parameter(X + "{min: 1e-4, max: 1e-2}"),
        "configs are YAML 1.2; they read text and want 1.0e-4",
    ),
    "the old logarithmic name": (
        with_parameter(X + "{distribution: log_uniform, min: -9, max: -5}"),
        "they ask for log_uniform_values",
    ),
}


def accepted_here(tmp_path, text):
    try:
        sweep.load(write(tmp_path, text))
    except SweepError:
        return False
    return True


def test_what_is_accepted_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = dict.fromkeys(BOTH_ACCEPT, True) | dict.fromkeys(BOTH_REFUSE, False)
    expected |= dict.fromkeys(ONLY_WE_ACCEPT, True) | dict.fromkeys(ONLY_THEY_ACCEPT, False)
    texts = BOTH_ACCEPT | BOTH_REFUSE
    texts |= {name: text for name, (text, _) in (ONLY_WE_ACCEPT | ONLY_THEY_ACCEPT).items()}
    assert {name: accepted_here(tmp_path, text) for name, text in texts.items()} == expected


@pytest.mark.evidence
def test_wandb_accepts_the_same_files_and_plans_the_same_grid(tmp_path, monkeypatch):
    files = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SWEEPS}
    differ = ONLY_THEY_ACCEPT | ONLY_WE_ACCEPT
    cases = BOTH_ACCEPT | BOTH_REFUSE | {name: text for name, (text, _) in differ.items()}
    grids = {name: text for name, text in files.items() if yaml.safe_load(text)["method"] == "grid"}
    theirs_say = wandb_says(tmp_path, files | cases, grids)
    for name in files:
        assert theirs_say["refused"][name] == [], name
    there = {name: not theirs_say["refused"][name] for name in cases}
    expected = dict.fromkeys(BOTH_ACCEPT, True) | dict.fromkeys(BOTH_REFUSE, False)
    expected |= dict.fromkeys(ONLY_WE_ACCEPT, False) | dict.fromkeys(ONLY_THEY_ACCEPT, True)
    assert there == expected
    monkeypatch.chdir(ROOT)
    for name in grids:
        ours = [
            plain_data.merged({}, *map(plain_data.override, trial))
            for trial in sweep.load(name).trials()
        ]
        theirs = [  # where dotted names stay dotted
            plain_data.merged(
                {}, *(plain_data.override(f"{k}={x['value']!r}") for k, x in trial.items())
            )
            for trial in theirs_say["trials"][name]
        ]
        assert sorted(map(_key, ours)) == sorted(map(_key, theirs))
    print(f"{len(files)} sweep files accepted, {len(cases)} cases as listed; refused or not:")
    for name, (_, reason) in differ.items():
        print(f"  {name}: {'W&B' if there[name] else 'dst'} accepts it; {reason}")


def _key(trial):
    return json.dumps(trial, sort_keys=True)
