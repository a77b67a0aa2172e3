"""Laws of the experiments: what their tables say is what their runs have come to."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import optax
import pytest

import dst
from dst.report import markdown
from dst.report.spread import spread
from experiments import together, tuned
from experiments.methods_stdlib import run as text
from experiments.rows import merged
from tests.training import ROOT, small


def loaded(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = loaded(ROOT / "experiments" / "table.py")


def made_up(folder: Path, state: str = "done") -> Path:
    """A sweep of two windows by two lengths by two seeds, with known figures."""
    trials = []
    for stop, at_end in (("50%", 0.9), ("75%", 0.8)):
        for steps in (100, 200):
            for seed in (0, 1):
                number = len(trials)
                run = folder / f"trials/{number:05d}"
                run.mkdir(parents=True)
                summary = {
                    "accuracy": at_end + 0.02 * seed,
                    "explored": 1.0,
                    "training_cost": 0.5 if stop == "50%" else 0.6,
                    "steps": steps,
                    "layers": [
                        {"shape": [7, 2], "active": 7, "explored": 1.0},
                        {"shape": [5], "active": 5, "explored": None},
                    ],
                }
                (run / "summary.json").write_text(json.dumps(summary))
                chosen = {"method": {"start": "5%", "stop": stop}, "train.steps": steps}
                settings = {**chosen, "seed": seed}
                trial = {"number": number, "state": state, "settings": settings}
                trials.append({**trial, "directory": f"trials/{number:05d}"})
    (folder / "sweep.json").write_text(json.dumps({"trials": trials}))
    return folder


def test_a_spread_is_mean_and_standard_error():
    accuracy = spread(iter([1.0, 2.0, 6.0]))
    assert accuracy.mean == 3.0
    assert accuracy.error == pytest.approx(math.sqrt(((-2) ** 2 + (-1) ** 2 + 3**2) / 2 / 3))
    assert accuracy.words(1) == "3.0 ± 1.5"
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        spread([1.0])


def test_rows_are_settings_and_figures_that_never_differ_are_left_out(tmp_path):
    lines = table.table(table.read(made_up(tmp_path))).splitlines()
    heads = "| start | stop | steps | accuracy, % | training cost |"
    assert lines[0] == heads
    assert lines[2:] == [
        "| 5% | 50% | 100 | 91.00 ± 1.00 | 0.500 |",
        "| 5% | 50% | 200 | 91.00 ± 1.00 | 0.500 |",
        "| 5% | 75% | 100 | 81.00 ± 1.00 | 0.600 |",
        "| 5% | 75% | 200 | 81.00 ± 1.00 | 0.600 |",
    ]


def test_table_and_picture_stand_in_the_folder(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    readme = folder / "README.md"
    readme.write_text("before\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    trials = table.read(made_up(tmp_path / "sweep"))
    markdown.write_between(readme, "table", table.table(trials))
    text = readme.read_text()
    assert text.startswith("before\n<!-- table -->\n| start |") and text.endswith("after\n")
    assert "old" not in text
    table.picture(trials, "training_cost", ["method.stop"], "accuracy", folder / "table.svg")
    drawn = (folder / "table.svg").read_text()
    assert "stop 50%" in drawn and "stop 75%" in drawn and "training cost" in drawn
    assert len(drawn) < 60_000


@pytest.mark.parametrize("best", text.RATES)
def test_rates_are_tried_until_the_best_has_neighbours(best):
    at = text.RATES.index(best)
    rate, tried = text.best_rate(lambda r: float(abs(text.RATES.index(r) - at)))
    assert rate == best
    assert set(text.RATES[1:-1]) | set(text.RATES[max(at - 1, 0) : at + 2]) == set(tried)


def test_rows_of_a_table_that_are_not_made_again_stay():
    there = markdown.table(["80%", "bits"], [["dense", 2.9], ["RigL", 3.0]])
    order, new = ["dense", "SET", "RigL"], [["RigL", "2.7"], ["SET", "2.8"]]
    kept = [["dense", "2.9"], ["SET", "2.8"], ["RigL", "2.7"]]
    assert merged(there, ["80%", "bits"], new, order) == kept
    assert merged(there, ["90%", "bits"], new, order) == kept[1:]  # another table
    assert merged("", ["80%", "bits"], new, order) == kept[1:]


def test_the_first_table_of_a_text_is_read():
    two = "text\n" + "\n\n".join(markdown.table([x], [[1]]) for x in "ab")
    assert markdown.read_table(two) == (["a"], [["1"]])


def test_a_method_is_added_to_the_tables_and_the_picture_of_a_network(tmp_path):
    def runs(accuracy, *sparsities):
        seeds = (0.0, 0.02)
        return [
            {"accuracy": accuracy + x, "sparsity": s, "rate": 0.1, "training_cost": 1 - s}
            for s in sparsities
            for x in seeds
        ]

    (tmp_path / "README.md").write_text("before\n<!-- mlp -->\n<!-- /mlp -->\nafter\n")
    columns, path = (0.0, 0.9, 0.98), tmp_path / "mlp.svg"
    tuned.write_rows({"RigL": runs(0.5, 0.9, 0.98)}, columns, path)
    tuned.write_rows({"Dense": runs(0.6, 0.0), "SET": runs(0.4, 0.9)}, columns, path)
    accuracies, training = markdown.read_between(tmp_path / "README.md", "mlp").split("\n\n")
    assert markdown.read_table(accuracies)[1] == [
        ["Dense", "61.0 ± 1.0", "0.1", "", "", "", ""],
        ["SET", "", "", "41.0 ± 1.0", "0.1", "", ""],
        ["RigL", "", "", "51.0 ± 1.0", "0.1", "51.0 ± 1.0", "0.1"],
    ]
    assert markdown.read_table(training)[1][2] == ["RigL", "", "0.100", "0.020"]
    assert all(name in path.read_text() for name in ("Dense", "SET", "RigL"))


def test_a_sweep_that_is_not_done_has_no_table(tmp_path):
    with pytest.raises(ValueError, match=r"trials \[0, 1, 2, 3, 4, 5, 6, 7\]"):
        table.read(made_up(tmp_path, state="waiting"))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"name": "mlp", "hidden": [8]}, id="mlp"),
        pytest.param(
            {"name": "convnet1d", "channels": [4, 4]}, id="convnet1d", marks=pytest.mark.evidence
        ),
    ],
)
def test_runs_that_train_together_are_those_that_train_alone(model, tmp_path):
    """Sparsity, seed and learning rate are data of one program."""
    settings = small(
        tmp_path,
        "optimizer.clip=null",
        "train.steps=30",
        f"model={model}",
        "data={'name': 'mnist1d', 'batch_size': 32}",
    )
    runs = [together.Run(0.5, 0, 1e-3), together.Run(0.8, 1, 3e-2)]

    def method(sparsity):
        return dst.RigL(sparsity, every=10, stop=25)

    both = together.train(settings, method, runs)
    for run, record in zip(runs, both, strict=True):
        (alone,) = together.train(settings, method, [run])
        assert alone == pytest.approx(record, rel=1e-4)
    assert [r["found_sparsity"] for r in both] == pytest.approx([0.5, 0.8], abs=0.01)
    assert both[0]["training_loss"] != both[1]["training_loss"]


def test_a_rate_that_is_data_is_that_of_the_optimizer():
    params, grads = {"w": np.ones((3, 2), np.float32)}, {"w": np.full((3, 2), 0.3, np.float32)}
    tx, plain = together.at_rate(optax.adamw(1.0), 1e-2), optax.adamw(1e-2)
    mine, _ = tx.update(grads, tx.init(params), params)
    theirs, _ = plain.update(grads, plain.init(params), params)
    np.testing.assert_allclose(mine["w"], theirs["w"], rtol=1e-6)
    halved = together.at_rate(optax.adamw(1.0), 1e-2, lambda path, shape: 1 / shape[1])
    half, _ = halved.update(grads, halved.init(params), params)
    np.testing.assert_allclose(half["w"], theirs["w"] / 2, rtol=1e-6)


def test_the_best_rate_is_that_of_the_highest_mean():
    def record(sparsity, rate, accuracy):
        return {"sparsity": sparsity, "rate": rate, "accuracy": accuracy}

    records = [record(0.9, 0.1, x) for x in (0.5, 0.7)] + [record(0.9, 0.3, x) for x in (0.9, 0.2)]
    records += [record(0.5, 0.3, 0.4), record(0.5, 0.1, 0.4)]
    assert together.best_rates(records) == {0.9: 0.1, 0.5: 0.1}
