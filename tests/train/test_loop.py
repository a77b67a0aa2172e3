"""Laws of runs: repeatable, resumable bit for bit, and never lost."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import dst
from dst import cli
from dst.report import reading
from dst.report.tiles import tiles
from dst.train import loop, setup
from dst.train.config import run as config
from dst.train.records import checkpoint, run_dir
from tests.faults import records
from tests.training import CONFIGS, assert_same, small, states_in, write_small

EMA = ("optimizer.ema=0.9", "optimizer.accumulate=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    loop.train(small(folder, *EMA), folder / "run")
    return folder / "run"


def test_a_run_directory_holds_all_that_is_promised(finished):
    names = {p.name for p in finished.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "masks-initial.safetensors",
        "masks-final.safetensors",
        "summary.json",
        "lock",
    }
    final = json.loads((finished / "summary.json").read_text())
    assert final["steps"] == 40 and final["topology_steps"] == 2
    assert final["test_labels"] == 360 and 0 < final["compile_seconds"] <= final["seconds"]
    masks = dst.load_masks(finished / "masks-final.safetensors")
    rows = {row["path"]: row for row in final["layers"]}
    assert {p: int(m.sum()) for p, m in masks.items()} == {p: rows[p]["active"] for p in masks}


def test_records_say_what_happened(finished):
    lines = records(finished)
    assert [x["step"] for x in lines if x["kind"] == "train"] == list(range(5, 41, 5))
    assert [x["step"] for x in lines if x["kind"] == "eval"] == [20, 40]
    # A record's step is the number of updates done; the topology steps are the 11th and the 21st.
    assert [x["step"] for x in lines if x["kind"] == "topology"] == [11, 21]
    for line in lines:
        if line["kind"] != "train":
            assert {"sparsity", "sparsity_model", "explored", "dropped", "grown"} <= line.keys()
            assert {"sparsity/hidden/0/kernel", "explored/out/kernel"} <= line.keys()
        if line["kind"] == "topology":
            assert line["dropped"] == line["grown"] > 0 and 0 < line["churn"] < 1
        if line["kind"] == "eval":
            assert {"loss", "accuracy", "ema_loss", "ema_accuracy"} <= line.keys()
    rows = json.loads((finished / "summary.json").read_text())["layers"]
    for row in (r for r in rows if r["explored"] is not None):
        steps = [x[f"dropped/{row['path']}"] for x in lines if x["kind"] == "topology"]
        assert row["dropped_total"] == sum(steps)


def test_records_and_report_say_what_the_run_cost(finished):
    planned = setup.make(config.load(finished / "config.yaml")).costs().figures()
    final = json.loads((finished / "summary.json").read_text())
    for name, value in planned.items():
        assert final[name] == pytest.approx(value, rel=1e-6)
    # Two dense gradients in 40 steps.
    extra = 2 * (1 - final["forward_cost"]) / (3 * 40)
    assert final["training_cost"] == pytest.approx(final["forward_cost"] + extra)
    evaluations = [x for x in records(finished) if x["kind"] == "eval"]
    costs = [x["forward_cost"] for x in evaluations]
    assert costs == pytest.approx([final["forward_cost"]] * 2, rel=1e-5)
    tile = next(x for x in tiles(reading.read(finished)) if x.label == "Training FLOPs")
    assert tile.value == f"{100 * final['training_cost']:.1f} %"
    assert "average density" in tile.detail


@pytest.mark.parametrize("stop", [10, 17])
def test_a_resumed_run_equals_one_that_never_stopped(stop, finished, tmp_path):
    run = tmp_path / "run"
    assert loop.train(small(tmp_path, *EMA), run, until=stop) is None
    loop.resume(run)
    assert records(run) == records(finished)
    assert_same(states_in(run)[40], states_in(finished)[40])
    for name in ("masks-initial.safetensors", "masks-final.safetensors"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_the_saved_config_repeats_the_run(finished, tmp_path):
    loop.train(config.load(finished / "config.yaml"), tmp_path / "run", until=20)
    assert_same(states_in(tmp_path / "run")[20], states_in(finished)[20])


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = run / "checkpoints" / f"{40:09d}"
    victim = max(newest.rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    loop.resume(run)
    out = capsys.readouterr().out
    assert "step 40 is damaged" in out and "resuming at step 30" in out
    assert checkpoint.damage(run / "checkpoints", 40) is None
    assert records(run) == records(finished)
    assert_same(states_in(run)[40], states_in(finished)[40])


def test_without_a_checkpoint_a_run_starts_again(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints")
    loop.resume(run, until=20)
    assert_same(states_in(run)[20], states_in(finished)[20])
    assert records(run) == [x for x in records(finished) if x["step"] <= 20]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)
    bad = ["optimizer.name=sgd", "optimizer.learning_rate=1e6", "optimizer.warmup=0"]
    assert cli.main(["train", "small.yaml", "optimizer.clip=null", *bad]) == 1
    message = capsys.readouterr().err
    assert "the loss is inf at step" in message and "step 0 in runs/small" in message
    (state,) = states_in(tmp_path / "runs" / "small").values()
    assert all(np.isfinite(x).all() for x in (state.params["out"]["kernel"],))
    assert not (tmp_path / "runs" / "small" / "summary.json").exists()


def test_an_existing_run_is_not_overwritten_unless_asked(finished, capsys):
    folder = finished.parent
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    arguments = ["train", str(folder / "small.yaml"), "--dir", str(finished)]
    assert cli.main(arguments) == 2
    message = capsys.readouterr().err
    assert f"dst resume {finished}" in message and "--overwrite" in message
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_overwrite_replaces_a_run_and_nothing_else(tmp_path):
    run_dir.create(tmp_path / "run", "name: a\n", overwrite=False).close()
    (tmp_path / "run" / "more").write_text("")
    run_dir.create(tmp_path / "run", "name: b\n", overwrite=True).close()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.yaml", "lock"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    with pytest.raises(run_dir.DirectoryError, match="no run directory"):
        run_dir.create(tmp_path / "home", "name: a\n", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_resume_needs_a_run(tmp_path, capsys):
    assert cli.main(["resume", str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err


# Compilation costs: `make test` runs one config and sets the others up. Data sets that must be
# prepared are tested in tests/train/data/test_tfds.py.
HERE = [p for p in CONFIGS if p.parent.name in ("digits", "stdlib")]
RUN = [
    pytest.param(p, marks=[] if p.match("digits/rigl.yaml") else pytest.mark.evidence) for p in HERE
]


@pytest.mark.parametrize("path", HERE, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_config_can_be_set_up(path):
    plan = setup.make(config.load(path, ["mesh.data=1"])).plan
    assert bool(plan.sparse) == (path.stem != "dense")


@pytest.mark.parametrize("path", RUN, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_config_runs(path, tmp_path):
    loop.train(config.load(path, ["mesh.data=1"]), tmp_path / "run", until=2)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [0, 2]
