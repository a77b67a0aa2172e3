"""Laws of the W&B logger: it shows what reports show, and W&B's own reader finds it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest
from matplotlib.image import imread
from safetensors.numpy import load_file

import dst
from dst.inspect import mask_images
from dst.train.config import run as config
from dst.train.records import loggers, run_dir
from tests import offline
from tests.agents import IDENTITY, started
from tests.faults import dst as command
from tests.faults import ended, records, row, until
from tests.studies.sweep.test_spec import write
from tests.training import small, write_small


class Drawn:
    """A logger that keeps the masks it is shown."""

    shown: ClassVar[list] = []

    def __init__(self, *_):
        self.shown.clear()

    def log(self, step, kind, values):
        pass

    def show(self, step, path, mask):
        self.shown.append((step, path, mask))

    def close(self, summary):
        pass


def test_masks_are_drawn_a_few_times_however_many_topology_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "WeightsAndBiases", Drawn)
    calls = []
    monkeypatch.setattr(dst, "masks", lambda state: calls.append(1) or {"b": state, "a": state})

    def steps(start, mode):
        settings = small(tmp_path, "train.steps=1000", f"wandb.mode={mode}")
        with loggers.Loggers(settings, tmp_path, start) as every:
            for step in range(start + 1, 1000):  # a topology step each
                every.show(step, np.full((2, 2), step % 2 == 0))
            every.show(1000, np.ones((2, 2), bool), always=True)

    steps(0, "offline")
    assert [step for step, *_ in Drawn.shown] == [*range(100, 1000, 100), 1000]
    assert {path for _, path, _ in Drawn.shown} == {"b"} and len(calls) == 10
    steps(550, "offline")  # resumed
    assert [step for step, *_ in Drawn.shown] == [600, 700, 800, 900, 1000]
    calls.clear()
    steps(0, "disabled")
    assert not calls


def test_pixels_are_the_mask():
    mask = np.random.default_rng(0).random((9, 4)) < 0.5
    image = mask_images.mixed([(mask, mask_images.ACTIVE)])
    np.testing.assert_array_equal(image[..., 3] == 255, mask)
    assert image[mask][:, :3].tolist() == [list(mask_images.ACTIVE)] * int(mask.sum())
    assert mask_images.enlarged(image, 100).shape == (9 * 25, 4 * 25, 4)
    np.testing.assert_array_equal(mask_images.per_pixel(mask).ravel(), mask.sum(1))
    assert (
        mask_images.per_pixel(mask[:8]) is None and mask_images.per_pixel(mask[:, :, None]) is None
    )


def _is_within(part, whole) -> bool:
    """Whether plain data is part of other plain data; floats as the reader writes them."""
    if isinstance(part, dict):
        return all(key in whole and _is_within(value, whole[key]) for key, value in part.items())
    if isinstance(part, float):
        return math.isclose(part, whole, rel_tol=1e-6)
    return list(part) == whole if isinstance(part, tuple) else part == whole


@pytest.mark.evidence
def test_an_offline_run_reads_back_whole(tmp_path):
    pytest.importorskip("wandb")
    write_small(tmp_path)
    wandb = {"mode": "offline", "project": "p", "artifacts": ["masks", "checkpoint", "report"]}
    settings = ["method.every=4", "train.log_every=4", f"wandb={wandb}"]
    offline.dst(tmp_path, "train", "small.yaml", *settings, "--dir", "run")
    run = tmp_path / "run"
    (record,) = offline.parts(run)

    # The config is the resolved one.
    start, saved = record.start, config.load(run / run_dir.CONFIG)
    assert _is_within(config.to_dict(saved), start["config"]["update"])
    assert start["project"] == "p" and start["display_name"] == "small"

    # Every number of metrics.jsonl, at its step.
    rows = record.rows
    lines = records(run)
    assert {line["kind"] for line in lines} == {"train", "eval", "topology"}
    for line in lines:
        for name, value in line.items():
            if name in ("step", "kind"):
                continue
            kind, slash, layer = name.partition("/")
            if slash and kind == "sparsity":
                name, value = f"density/{layer}", 1 - value
            there = rows[line["step"]][f"train/{name}" if line["kind"] == "train" else name]
            assert there == pytest.approx(value, rel=1e-6, abs=1e-8), (line["step"], name)
    for name in ("churn", "explored", "sparsity", "sparsity_model", "density/hidden/0/kernel"):
        assert sum(name in row for row in rows.values()) >= 6

    # The pictures are the masks.
    def picture(step, name):
        image = imread(record.path / "files" / rows[step][f"pictures/{name}.path"])
        factor = image.shape[1] // (64 if name == "mask" else 8)
        return image[factor // 2 :: factor, factor // 2 :: factor, 3]

    drawn = [step for step, row in rows.items() if "pictures/mask.path" in row]
    assert drawn[0] == 0 and drawn[-1] == 40 and 5 <= len(drawn) <= 11
    for step, file in ((0, run_dir.MASKS_INITIAL), (40, run_dir.MASKS_FINAL)):
        mask = load_file(run / file)["hidden/0/kernel"].astype(bool)
        np.testing.assert_array_equal(picture(step, "mask"), mask.T)
        counts = mask.sum(axis=1).reshape(8, 8)
        np.testing.assert_allclose(
            picture(step, "input pixels"), counts / counts.max(), atol=1 / 255
        )
        assert rows[step]["pictures/mask.caption"].startswith(f"hidden/0/kernel at step {step}")

    # The table of layers, and the figures of the runs' table.
    summary = json.loads((run / run_dir.SUMMARY).read_text())
    (path,) = (record.path / "files/media/table").glob("layers_*.json")
    table = json.loads(path.read_text())
    layers = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    for ours, theirs in zip(summary["layers"], layers, strict=True):
        named = {"layer" if name == "path" else name: x for name, x in ours.items()}
        assert theirs == named | {"shape": str(ours["shape"])}
    last = record.summary
    scores = {"accuracy": max, "loss": min}
    for name, value in summary.items():
        if name in scores:
            best = scores[name](line[name] for line in lines if line["kind"] == "eval")
            expected = {scores[name].__name__: best, "last": value}
            assert last[name] == pytest.approx(expected, rel=1e-6)
        elif isinstance(value, int | float):
            assert last[name] == pytest.approx(value, rel=1e-6)
    assert not [name for name in last if name.startswith(("density/", "explored/", "grown/"))]

    # Artifacts hold the files of the run.
    for name, kind in (("masks", "masks"), ("checkpoint", "model"), ("report", "report")):
        artifact = record.artifacts[f"small-{name}"]
        assert artifact["type"] == kind
        for file, there in artifact["files"].items():
            (own,) = [x for x in (run / file, run / f"checkpoints/{40:09d}" / file) if x.is_file()]
            assert Path(there).read_bytes() == own.read_bytes()


@pytest.mark.evidence
def test_a_run_of_an_agent_belongs_to_its_sweep(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    nested = {"seed": 1, "method": {"name": "set", "sparsity": 0.5}}
    command, environment = started(
        monkeypatch, write(tmp_path), {**nested, "optimizer.learning_rate": 1e-05}
    )
    assert command[:2] == ["dst", "train"]
    offline.dst(tmp_path, *command[1:], WANDB_MODE="offline", **environment)
    run = tmp_path / "runs" / f"small-{IDENTITY['WANDB_RUN_ID']}"
    (record,) = offline.parts(run)
    start = record.start
    assert start["run_id"] == IDENTITY["WANDB_RUN_ID"]
    assert start["sweep_id"] == IDENTITY["WANDB_SWEEP_ID"]
    # Parallel coordinates have their axes from these, under the names of the sweep file.
    shown = start["config"]["update"]
    assert _is_within(nested, shown) and shown["optimizer.learning_rate"] == 1e-05
    saved = config.load(run / run_dir.CONFIG)
    assert saved.optimizer.value.learning_rate == 1e-05 and saved.method.name == "set"
    assert _is_within(config.to_dict(saved), shown)  # nothing of the rest is lost
    # The metric is there at every evaluation, which Hyperband reads, and at the end.
    values = [row["accuracy"] for row in record.rows.values() if "accuracy" in row]
    recorded = [line["accuracy"] for line in records(run) if line["kind"] == "eval"]
    assert values == pytest.approx(recorded, rel=1e-6) and len(values) >= 2
    # The sweep's pages want it as one number.
    assert record.summary["accuracy"] == pytest.approx(recorded[-1], rel=1e-6)
    # Continued by hand, it is the same run.
    assert (run / "wandb/id").read_text() == IDENTITY["WANDB_RUN_ID"]


@pytest.mark.evidence
def test_a_service_that_is_killed_costs_the_run_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("wandb")
    write_small(tmp_path)
    long = ["train.steps=3000", "train.log_every=10", "train.checkpoint_every=1000"]
    environment = {"WANDB_DATA_DIR": str(tmp_path)}
    process = command("train", "small.yaml", *long, "wandb.mode=offline", **environment)
    run = tmp_path / "runs/small"
    until(process, run, 100)
    cores = psutil.Process(process.pid).children(recursive=True)
    killed = [x for x in cores if "wandb-core" in x.name()]
    for core in killed:
        core.kill()
    code, _, err = ended(process)
    assert killed and code == 0, err
    assert [x["step"] for x in records(run) if x["kind"] == "train"] == [*range(10, 3001, 10)]
    warnings = [x for x in err.splitlines() if "warning: Weights & Biases" in x]
    assert len(warnings) == 1
    row("W&B's own process killed", f"exit 0; {warnings[0]}", "what W&B had not written")
