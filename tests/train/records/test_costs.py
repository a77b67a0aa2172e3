"""Laws of what a run costs, as `dst inspect` says before it starts."""

from __future__ import annotations

import json

import pytest

from dst import cli
from tests.training import write_small

# The small config: 64 pixels, 16 hidden, 10 classes.
HIDDEN, OUT = 64 * 16, 16 * 10


def inspected(folder, capsys, *arguments):
    """What ``dst inspect`` prints about the small config."""
    assert cli.main(["inspect", str(write_small(folder)), *arguments]) == 0
    return capsys.readouterr().out


def test_inspect_counts_what_a_hand_counts(tmp_path, capsys):
    half = ["method.sparsity=0.5", "method.allocation=uniform"]
    data = json.loads(inspected(tmp_path, capsys, "--json", *half))
    leaves = {row["path"]: row for row in data["leaves"]}
    assert leaves["hidden/0/kernel"]["macs_dense"] == HIDDEN
    assert leaves["out/kernel"]["macs"] == OUT // 2
    assert leaves["out/bias"]["uses"] == ["elementwise"]
    assert data["macs_dense"] == HIDDEN + OUT
    assert data["macs"] == (HIDDEN + OUT) // 2
    assert data["parameters"] == HIDDEN + OUT + 26
    assert data["active"] == (HIDDEN + OUT) // 2 + 26
    assert data["bytes"] == 4 * data["active"] + (HIDDEN + OUT) // 8
    assert data["forward_cost"] == 0.5
    assert data["average_density"] == 0.5
    # RigL: topology steps at 10 and 20 of 40 need a dense gradient; 30 is its stop.
    assert data["training_cost"] == pytest.approx((3 * 0.5 * 38 + (2 * 0.5 + 1) * 2) / (3 * 40))
    assert not data["not_understood"]


def test_inspect_prints_the_table_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspected(tmp_path, capsys, "method.sparsity=0.9")
    rows = [line.split() for line in text.splitlines()]
    assert ["leaf", "shape", "axes", "sparsity", "active", "MACs", "dense", "MACs", "why"] in rows
    kernel = next(row for row in rows if row[:1] == ["hidden/0/kernel"])
    assert kernel[1] == "64x16"
    assert kernel[6] == f"{HIDDEN:,}"
    assert text.count("of dense") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_inspect_refuses_what_train_refuses(tmp_path, capsys):
    path = str(write_small(tmp_path))
    assert cli.main(["inspect", path, "seed=x"]) == 2
    assert "seed must be an integer" in capsys.readouterr().err
    assert cli.main(["inspect", path, "mesh.data=99"]) == 2
    assert "mesh.data must be at most" in capsys.readouterr().err
    assert cli.main(["inspect", path, "--overwrite"]) == 2
