"""Laws of W&B runs, several in one process, read back with W&B's own reader."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.train.config.run import ConfigError
from dst.train.objectives.figures import SCORES
from dst.train.records import checkpoint, loggers, run_dir, wandb_artifacts
from dst.train.records.loggers import Loggers
from dst.train.records.wandb import _BEST
from tests import offline
from tests.training import small

SUMMARY = {"accuracy": 0.7, "loss": 0.5, "seconds": 2.5, "steps": 40, "sparsity": 0.8}
LAYERS = {"layers": [{"path": "hidden/0/kernel", "shape": [4, 2], "active": 3}]}
KEYS = "'project': 'p', 'entity': 'team', 'group': 'g', 'job_type': 'j', 'notes': 'why not'"
ALL = "'artifacts': ['masks', 'checkpoint', 'report']"


def evaluation(accuracy, loss):
    return {"accuracy": accuracy, "loss": loss, "sparsity": 0.8, "sparsity/hidden/0/kernel": 0.75}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """W&B's client, which keeps its files in a folder of the test."""
    wandb = pytest.importorskip("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in offline.environment(tmp_path_factory.mktemp("client")).items():
            patch.setenv(name, value)
        patch.setenv("WANDB_SILENT", "true")
        yield wandb
        wandb.teardown()


@pytest.fixture(scope="module")
def runs(client, tmp_path_factory):
    """Two runs at the same time; the first one rolls back, is stopped, and resumes."""
    where = {name: tmp_path_factory.mktemp(name) for name in ("first", "second")}
    own = {
        "first": f"wandb={{'mode': 'offline', 'tags': ['a', 'b c'], {KEYS}, {ALL}}}",
        "second": "wandb.mode=offline",
    }
    config = {
        name: small(where[name], own[name], "train.keep_best=1", f"name={name}-é") for name in own
    }
    with Loggers(config["first"], where["first"], 0) as first:
        with Loggers(config["second"], where["second"], 0) as second:
            for step, accuracy in ((10, 0.5), (20, 0.9)):
                second.log(step, "eval", evaluation(accuracy / 2, 1 - accuracy))
                first.log(step, "train", {"loss": 1.0})
                first.log(step, "eval", evaluation(accuracy, 1 - accuracy))
            first.rewind(10)
            first.log(20, "eval", evaluation(0.8, 0.1))
            first.log(30, "train", {"loss": 0.5})
            second.finish(SUMMARY | LAYERS)
    with Loggers(config["first"], where["first"], 20) as first:  # stopped before it saved step 30
        first.log(30, "eval", evaluation(0.6, 0.3))
        first.log(40, "eval", evaluation(0.7, 0.5))
        _files(where["first"])
        first.finish(SUMMARY | LAYERS)
    return {name: offline.parts(path) for name, path in where.items()}


def _files(run):
    """What artifacts hold of a run."""
    dst.save_masks(run / run_dir.MASKS_FINAL, {"kernel": np.ones((2, 2), bool)})
    (run / run_dir.REPORT).write_text("<html>")
    with checkpoint.Writer(run / run_dir.CHECKPOINTS, 2, 1) as writer:
        for step, score in ((20, 0.8), (30, 0.6), (40, 0.7)):
            writer.save(step, {"kernel": jnp.ones(2)}, {"drawn": step}, score)
            writer.finish()


def test_the_keys_of_a_config_say_where_a_run_appears(runs):
    start = runs["first"][0].start
    keys = ("project", "entity", "run_group", "job_type", "tags", "notes", "display_name")
    assert [start.get(key) for key in keys] == [
        *("p", "team", "g", "j", ["a", "b c"], "why not", "first-é")
    ]
    other = runs["second"][0].start
    assert [other.get(key) for key in keys] == ["dst", None, None, None, None, None, "second-é"]
    assert other["run_id"] != start["run_id"] == runs["first"][1].start["run_id"]


def test_runs_of_one_process_have_their_own_records(runs):
    (second,) = runs["second"]
    values = {n: row["accuracy"] for n, row in second.rows.items() if "accuracy" in row}
    assert values == pytest.approx({10: 0.25, 20: 0.45})
    assert not [name for name in second.aggregates if name.startswith("train/")]


def test_repeated_steps_have_rows_of_their_own_over_one_axis_of_steps(runs):
    rows = {part: runs["first"][part].rows for part in (0, 1)}
    assert {n: row["step"] for n, row in rows[0].items()} == {10: 10, 20: 20, 21: 20, 30: 30}
    assert {n: row["step"] for n, row in rows[1].items()} == {31: 30, 40: 40}
    assert [rows[0][n]["accuracy"] for n in (20, 21)] == pytest.approx([0.9, 0.8])
    assert rows[0][20]["train/loss"] == 1.0  # records of one step share a row


def test_the_summary_holds_best_values_over_all_parts(runs):
    last = runs["first"][-1]
    assert last.aggregates["accuracy"] == ["last", "max"]
    assert last.aggregates["loss"] == ["last", "min"]
    assert last.aggregates["density/hidden/0/kernel"] == ["none"]
    # What was rolled back, 0.9, is not in the run.
    assert last.summary["accuracy"] == pytest.approx({"max": 0.8, "last": 0.7})
    assert last.summary["loss"] == pytest.approx({"min": 0.1, "last": 0.5})
    assert last.summary["seconds"] == 2.5 and "density/hidden/0/kernel" not in last.summary
    assert _BEST.keys() == set(SCORES)


def test_artifacts_are_those_that_the_config_lists(runs):
    logged = runs["first"][-1].artifacts
    kinds = {name: x["type"] for name, x in logged.items() if x["type"] != "run_table"}
    assert kinds == {
        "first-_-masks": "masks",
        "first-_-checkpoint": "model",
        "first-_-report": "report",
    }
    assert set(logged["first-_-checkpoint"]["aliases"]) == {"best", "latest"}
    assert logged["first-_-masks"]["aliases"] == ["latest"]
    assert json.loads(logged["first-_-checkpoint"]["metadata"])["step"] == 20
    files = logged["first-_-checkpoint"]["files"]
    assert {"manifest.json", "position.json"} < files.keys()
    assert files["manifest.json"].endswith(f"/{run_dir.CHECKPOINTS}/000000020/manifest.json")
    assert list(logged["first-_-report"]["files"]) == ["report.html"]
    assert {x["type"] for x in runs["second"][0].artifacts.values()} == {"run_table"}


def test_an_artifact_without_a_file_is_named(client, tmp_path, capsys):
    config = small(tmp_path, "wandb.artifacts=['report']")
    wandb_artifacts.log(None, config, tmp_path)  # nothing to log, so no run is needed
    assert "no artifact 'report'" in capsys.readouterr().err


def test_must_needs_a_run_to_continue(client, tmp_path, capsys):
    settings = small(tmp_path, "wandb={'mode': 'offline', 'resume': 'must'}")
    with Loggers(settings, tmp_path, 0) as every:
        every.log(1, "train", {"loss": 1.0})
    assert "wandb.resume is 'must', and" in capsys.readouterr().err
    assert not list(tmp_path.glob("wandb/offline-run-*"))
    assert loggers.read(tmp_path / run_dir.METRICS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wandb.tags=['']", r"wandb.tags\[0\] must have 1 to 64 characters"),
        ("wandb.tags=a", "wandb.tags"),
        ("wandb.project=a/b", "wandb.project must have 1 to 128 characters, none of them"),
        ("wandb.artifacts=[weights]", "wandb.artifacts.*masks.*checkpoint.*report"),
        ("wandb.resume=maybe", "wandb.resume.*'allow'"),
    ],
)
def test_what_w_and_b_would_refuse_is_refused_before(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        small(tmp_path, override)
