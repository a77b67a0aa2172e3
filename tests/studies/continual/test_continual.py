"""Laws of studies of continual learning: tasks in sequence, killed and continued, refused."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst import cli
from dst.studies import continual, directories, lottery
from dst.studies.continual import report
from dst.studies.continual.config import dump, load
from dst.train import loop
from dst.train.config import run as config
from dst.train.config.run import ConfigError
from dst.train.records import checkpoint, loggers, run_dir
from dst.train.records.run_dir import DirectoryError
from tests.studies.continual.small import CONFIG, STEPS, study
from tests.training import STUDIES, states_in

SET = ("method={name: set, sparsity: 0.8, every: 4, stop: 100%}",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two tasks with SET, never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    continual.run(study(folder, *SET), folder / "study")
    return folder / "study"


def _records(run):
    lines = loggers.read(run / run_dir.METRICS)
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines]


def test_a_task_begins_with_weights_and_masks_of_the_one_before(finished):
    before = dst.load_weights(finished / "task-01" / run_dir.weights(STEPS))
    masks = dst.load_masks(finished / "task-01" / run_dir.MASKS_FINAL)
    first = states_in(finished / "task-02")[0]
    kernel = np.asarray(first.params["hidden"][0]["kernel"])
    np.testing.assert_array_equal(kernel, before["hidden/0/kernel"])
    for path, mask in dst.load_masks(finished / "task-02" / run_dir.MASKS_INITIAL).items():
        np.testing.assert_array_equal(mask, masks[path])
    seen = [json.loads(json.dumps(x)) for x in loggers.read(finished / "task-02" / "metrics.jsonl")]
    steps = [x["step"] for x in seen if x["kind"] == "topology"]
    assert steps[0] <= 5, "the schedule starts again"


@pytest.mark.parametrize("path", STUDIES["continual"], ids=lambda p: p.stem)
def test_studies_of_the_repository_can_be_read(path):
    study = load(path)
    assert study.continual.tasks >= 2 and dump(study)


def test_rows_are_the_trainers_own_accuracies_on_every_task(finished):
    result = continual.read(finished)
    matrix = [row["accuracies"] for row in result["rows"]]
    for row in result["rows"]:
        own = json.loads((finished / row["run"] / run_dir.SUMMARY).read_text())["accuracy"]
        assert row["accuracies"][-1] == pytest.approx(own, abs=1e-6)
    assert result["finished"] and [row["classes"] for row in result["rows"]] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
    ]
    assert result["backward_transfer"] == continual.backward_transfer(matrix)
    text = continual.table(result)
    assert f"average accuracy {np.mean(matrix[-1]):.4f}" in text and "task 2" in text


def test_outputs_of_other_classes_do_not_compete_where_the_task_is_known(finished, tmp_path):
    """A head of five classes alone, in NumPy, gives the accuracy of the masked one."""
    run = config.load(finished / "task-01" / "config.yaml")
    assert run.objective.value.classes == (0, 1, 2, 3, 4)
    weights = dst.load_weights(finished / "task-01" / run_dir.weights(STEPS))
    task = run.data.make()
    x, labels = task.test.take(np.arange(len(task.test)))
    hidden = x.reshape(len(x), -1) @ weights["hidden/0/kernel"] + weights["hidden/0/bias"]
    logits = np.maximum(hidden, 0) @ weights["out/kernel"] + weights["out/bias"]
    accuracy = (logits[:, :5].argmax(-1) == labels).mean()
    row = continual.read(finished)["rows"][0]
    assert row["accuracies"][0] == pytest.approx(accuracy, abs=1e-6)


def test_classes_of_an_objective_are_checked():
    read = config.OBJECTIVE.read
    for classes, words in (([1], "two different"), ([1, 1], "two different"), ([-1, 2], ">= 0")):
        with pytest.raises(ValueError, match=words):
            read({"name": "classification", "classes": classes}, "objective")
    logits = jnp.array([[-3.0, 5.0, -2.0, 1.0]])
    known = read({"name": "classification", "classes": [0, 2]}, "objective").value
    loss, scores = known.loss(lambda x: x, (logits, jnp.array([0])), jax.random.key(0))
    assert float(loss) == pytest.approx(np.log(1 + np.exp(1))) and scores["accuracy"] == 0
    objective = read({"name": "classification", "classes": [0, 7]}, "objective").value
    with pytest.raises(ValueError, match=r"classes must be below 4, the number of outputs"):
        batch = jnp.zeros((2, 4)), jnp.zeros(2, jnp.int32)
        objective.loss(lambda x: x, batch, jax.random.key(0))


@pytest.mark.parametrize(
    ("classes", "words"),
    [([0, 10], "must be below 10"), ([0, 1], r"test examples are of the classes \[2, 3, .* 9\]")],
)
def test_data_of_other_classes_are_refused_before_anything_is_written(classes, words, tmp_path):
    run = {"objective": {"name": "classification", "classes": classes}, "mesh": {"data": 1}}
    (tmp_path / "run.yaml").write_text(CONFIG.replace("continual: {tasks: 2}", ""))
    settings = config.load(tmp_path / "run.yaml", [f"{k}={v}" for k, v in run.items()])
    with pytest.raises(ConfigError, match=words):
        loop.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.evidence
def test_a_study_killed_inside_and_between_tasks_equals_one_that_was_not(
    finished, tmp_path, monkeypatch
):
    where, save = tmp_path / "study", checkpoint.Writer.save

    def dying(writer, at, *arguments):
        save(writer, at, *arguments)
        if writer.where.parent.name == "task-01" and at == 6:
            raise Killed

    monkeypatch.setattr(checkpoint.Writer, "save", dying)
    with pytest.raises(Killed):
        continual.run(study(tmp_path, *SET), where)
    monkeypatch.setattr(checkpoint.Writer, "save", save)
    finish = loop.finish

    def stopping(settings, run):
        if run.name == "task-02":
            raise Killed
        return finish(settings, run)

    monkeypatch.setattr(loop, "finish", stopping)
    with pytest.raises(Killed):
        continual.resume(where)
    assert not continual.read(where)["finished"]
    html = report.write_report(where).read_text()
    assert "The study has not finished" in html
    monkeypatch.setattr(loop, "finish", finish)
    before = (where / "task-01" / run_dir.SUMMARY).stat().st_mtime_ns
    result = continual.resume(where)

    assert (where / "task-01" / run_dir.SUMMARY).stat().st_mtime_ns == before
    assert result["rows"] == continual.read(finished)["rows"]
    for run in ("task-01", "task-02"):
        assert _records(where / run) == _records(finished / run)
        name = run_dir.weights(STEPS)
        assert (where / run / name).read_bytes() == (finished / run / name).read_bytes()


def test_the_command_continues_reports_and_refuses(finished, tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(loop, "train", lambda *a, **k: trained.append(a))
    assert cli.main(["resume", str(finished)]) == 0
    out = capsys.readouterr().out
    assert not trained and "average accuracy" in out and "report.html" in out
    html = (finished / "report.html").read_text()
    assert html.count("<svg") == 2 and "Accuracy matrix" in html and "task 1 after task 2" in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert directories.kind(finished) == "continual"
    assert cli.main(["resume", str(finished), "seed=1"]) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(CONFIG, encoding="utf-8")
    assert cli.main(["continual", "small.yaml", "--dir", str(finished)]) == 2
    assert "dst resume" in capsys.readouterr().err
    assert cli.main(["continual", "small.yaml", "continual.tasks=6"]) == 2
    assert "continual.tasks must be at most 5" in capsys.readouterr().err
    assert cli.main(["train", "small.yaml"]) == 2
    assert "dst continual" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DirectoryError, match="study of `dst continual`"):
        lottery.read(finished)


def test_a_config_is_written_as_it_is_read(tmp_path):
    found = study(tmp_path, "continual.strategy={name: packnet, prune: 0.7}", "continual.tasks=3")
    (tmp_path / "again.yaml").write_text(dump(found), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == found


PACKNET, POPUP = "continual.strategy=packnet", "method={name: edge-popup, sparsity: 0.5}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["continual.tasks=1"], "continual.tasks must be an integer >= 2"),
        (["continual.task=3"], "continual.task is no known key. Did you mean 'tasks'"),
        (["continual.scenario=tasks"], "continual.scenario"),
        (["continual.strategy=packnets"], "continual.strategy.name .*packnet"),
        (["continual.strategy={name: packnet, prune: 0}"], "continual.strategy.prune .* above 0"),
        ([PACKNET, *SET], "method must be 'dense' here, got 'set'"),
        ([PACKNET, "continual.scenario=class"], "'task' or 'domain' with strategy 'packnet'"),
        (["continual.strategy={name: packnet, retrain: 0}"], "retrain must be from 1 to 12 steps"),
        ([POPUP], "strategy 'sequential', got 'edge-popup'"),
        (["continual.strategy=piggyback"], "method must be 'piggyback'"),
        ([POPUP, "continual.strategy=supsup", "continual.scenario=class"], "Or infer the task"),
        ([POPUP, "continual.strategy={name: supsup, infer: true}"], "infer must be false"),
        ([POPUP, "continual.strategy={name: supsup, own: ['out/*']}"], "train_dense must be true"),
        ([POPUP, "continual.strategy=supsup", "optimizer.trainable='out/*'"], "trainable must be"),
        (["start.step=3"], "start.step and train.snapshots must be left out"),
        (["sparsify.form=packed"], "sparsify.form must be 'masked'"),
        (["objective={name: classification, classes: [0, 1]}"], "objective must be null"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        study(tmp_path, *overrides)


def test_a_run_names_the_command_of_every_study():
    assert {k: f"dst {k}" for k in directories.PACKAGES} == config._OF_OTHERS


def test_a_network_with_running_statistics_infers_no_task(tmp_path):
    network = "model={name: convnet, channels: [4], norm: batch}"
    infer = ("continual.strategy={name: supsup, infer: true}", "continual.scenario=domain")
    found = study(tmp_path, POPUP, network, "train.recalibrate=1", *infer)
    with pytest.raises(ConfigError, match="without BatchNorm"):
        continual.run(found, tmp_path / "study")
    assert not (tmp_path / "study").exists()
