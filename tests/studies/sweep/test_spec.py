"""Laws of the sweep file: W&B's format, read strictly; every error names the line."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dst.studies import sweep
from dst.studies.sweep import distributions
from tests.training import ROOT, SWEEPS, write_small

FILE = """
name: toy
program: ignored.py
command: [dst, train, small.yaml, train.steps=30, "${args_no_hyphens}"]
method: grid
metric: {name: accuracy, goal: maximize}
parameters:
  seed: {values: [0, 1, 2]}
  optimizer.learning_rate: {value: 1e-3}
  method:
    parameters:
      name: {values: [rigl, set]}
      sparsity: {values: [0.5, 0.9]}
"""


def write(folder: Path, text: str = FILE) -> Path:
    write_small(folder)
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_grid_has_every_combination_once(tmp_path):
    toy = sweep.load(write(tmp_path))
    trials = toy.trials()
    assert len(trials) == len(set(trials)) == 12
    # As W&B's agents write arguments: nested parameters are a dictionary of Python.
    expected = ("seed=0", "optimizer.learning_rate=0.001")
    assert trials[0] == (*expected, "method={'name': 'rigl', 'sparsity': 0.5}")
    assert toy.settings(trials[0]) == {
        "seed": 0,
        "optimizer.learning_rate": 1e-3,
        "method.name": "rigl",
        "method.sparsity": 0.5,
    }
    configs = [toy.command.load(x) for x in trials]
    assert {x.train.steps for x in configs} == {30}
    seen = {(x.seed, x.method.name, x.method.value.sparsity) for x in configs}
    assert len(seen) == 12
    assert {x.optimizer.value.learning_rate for x in configs} == {1e-3}


def test_values_are_checked_together(tmp_path):
    # Over a dense config `rigl` alone would lack its sparsity.
    path = write(tmp_path, FILE + "      every: {value: 10}\n")
    dense = (tmp_path / "small.yaml").read_text().splitlines()
    dense = ["method: {name: dense}" if x.startswith("method:") else x for x in dense]
    (tmp_path / "small.yaml").write_text("\n".join(dense))
    assert len(sweep.load(path).trials()) == 12
    path.write_text(path.read_text().replace("[0.5, 0.9]", "[1.5, 0.9]"))
    with pytest.raises(sweep.SweepError, match=r"line 13: .*sparsity"):
        sweep.load(path)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_sweep_can_be_read(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trials = sweep.load(path).trials()
    assert len(set(trials)) == len(trials) > 1


def test_random_trials_are_a_function_of_the_file(tmp_path):
    text = FILE.replace("grid", "random\nrun_cap: 40")
    first, second = sweep.load(write(tmp_path, text)), sweep.load(write(tmp_path, text))
    assert first.trials() == second.trials()
    assert len(first.trials()) == 40 and len(set(first.trials())) > 8
    longer = sweep.load(write(tmp_path, text.replace("40", "50")))
    assert longer.trials()[:40] == first.trials()


# What is drawn lies at the quantiles that W&B's definitions say.
QUANTILES = [
    ({"value": 3}, 0.7, 3),
    ({"values": ["a", "b"]}, 0.49, "a"),
    ({"values": ["a", "b"]}, 0.5, "b"),
    ({"values": [1, 2], "probabilities": [0.9, 0.1]}, 0.89, 1),
    ({"min": 1, "max": 3}, 0.999, 3),
    ({"min": 0.0, "max": 2}, 0.25, 0.5),
    ({"distribution": "int_uniform", "min": 1, "max": 4}, 0.5, 3),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, 0.5, 1e-3),
    ({"distribution": "log_uniform", "min": 0, "max": 2}, 0.5, math.e),
    ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1}, 0.31, 0.3),
    ({"distribution": "q_log_uniform_values", "min": 1, "max": 100}, 0.5, 10),
    ({"distribution": "normal", "mu": 2, "sigma": 3}, 0.5, 2),
    ({"distribution": "log_normal"}, 0.5, 1),
    ({"distribution": "q_normal", "mu": 5}, 0.5, 5),
]


@pytest.mark.parametrize(("given", "u", "expected"), QUANTILES)
def test_distributions(given, u, expected):
    value = distributions.read(given).at(u)
    assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_draws_have_the_probabilities_asked_for():
    letters = distributions.read({"values": ["a", "b", "c"], "probabilities": [0.5, 0.2, 0.3]})
    draws = Counter(letters.at(u) for u in np.random.default_rng(0).random(20_000))
    for value, p in zip("abc", (0.5, 0.2, 0.3), strict=True):
        assert draws[value] / 20_000 == pytest.approx(p, abs=0.02)
    whole = Counter(distributions.read({"min": 1, "max": 5}).at(u) for u in np.linspace(0, 1, 5000))
    assert whole.keys() == {1, 2, 3, 4, 5} and max(whole.values()) < 1010


def test_grids_count_integers_and_steps():
    assert distributions.read({"min": 2, "max": 5}).all() == (2, 3, 4, 5)
    steps = distributions.read({"distribution": "q_uniform", "min": 0.1, "max": 0.4, "q": 0.1})
    assert steps.all() == (0.1, 0.2, 0.3, 0.4)


BAD = {
    "an unknown key": ("method: grid", "methods: grid", 5, ["'methods'", "'method'"]),
    "no method": ("method: grid", "", 1, ["'method'"]),
    "another method": ("grid", "gird", 5, ["'grid'", "'gird'"]),
    "no arguments": (', "${args_no_hyphens}"', "", 4, ["${args_no_hyphens}"]),
    "an option": ("train.steps=30", "--overwrite", 4, ["--overwrite"]),
    "a config that is not there": ("small.yaml", "smal.yaml", 4, ["'small.yaml'"]),
    "an override of nothing": ("train.steps=30", "train.stepz=30", 4, ["'steps'"]),
    "an empty grid": ("[0, 1, 2]", "[]", 8, ["at least one value"]),
    "a parameter that is none": ("sparsity: {", "sparsty: {", 13, ["'sparsity'"]),
    "a value out of range": ("[0.5, 0.9]", "[0.5, 90]", 13, ["0.9"]),
    "a continuum": ("{values: [0.5, 0.9]}", "{min: 0.5, max: 0.9}", 13, ["continuum"]),
    "no distribution": (
        "{value: 1e-3}",
        "{distribution: beta, min: 1}",
        9,
        ["'beta'", "'uniform'"],
    ),
    "what a distribution lacks": ("{value: 1e-3}", "{min: 1}", 9, ["'max'"]),
    "what a distribution has not": ("{value: 1e-3}", "{value: 1, max: 3}", 9, ["'max'"]),
    "the wrong way round": ("{value: 1e-3}", "{min: 3, max: 2}", 9, ["min must be below max"]),
    "probabilities": ("{values: [0, 1, 2]}", "{values: [0, 1], probabilities: [1, 1]}", 8, ["sum"]),
    "too many trials": ("method: grid", "method: grid\nrun_cap: 11", 6, ["12 trials", "11"]),
    "a figure that there is not": ("name: accuracy", "name: acuracy", 6, ["'accuracy'", "mean"]),
    "trials without end": ("method: grid", "method: random", 5, ["run_cap"]),
    "another goal": ("maximize", "best", 6, ["'maximize'"]),
    "another end": (
        "method: grid",
        "method: grid\nearly_terminate: {type: envelope}",
        6,
        ["hyperband", "envelope"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_the_line(case, tmp_path, capsys):
    from dst import cli

    old, new, line, parts = BAD[case]
    assert FILE.count(old) >= 1
    write(tmp_path, FILE.replace(old, new, 1))
    before = sorted(tmp_path.iterdir())
    assert cli.main(["sweep", "toy.yaml"]) == 2
    message = capsys.readouterr().err
    assert f"toy.yaml, line {line}: " in message
    for part in parts:
        assert part in message
    assert sorted(tmp_path.iterdir()) == before
