"""Laws of loggers: records are cut back on resume, and no logger ends a run."""

from __future__ import annotations

import numpy as np

from dst.train.records.json_lines import JsonLines, read
from dst.train.records.loggers import Loggers, Tolerated
from dst.train.records.screen import Screen
from tests.training import small


def test_records_after_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path, 0)
    for step in (5, 10, 15):
        first.log(step, "train", {})
    first.close(None)
    with path.open("a") as file:
        file.write('{"step": 20, "ki')  # killed while writing
    second = JsonLines(path, 10)
    second.log(11, "topology", {})
    second.close({})
    assert [line["step"] for line in read(path)] == [5, 10, 11]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


class Failing:
    """A logger that works once."""

    def __init__(self, *_):
        self.steps = []

    def log(self, step, kind, values):
        if self.steps:
            raise ConnectionError("no network.")
        self.steps.append(step)

    def close(self, summary):
        raise AssertionError("must not be called")


def test_a_logger_that_fails_is_reported_once_and_not_called_again(capsys):
    logger = Tolerated("service", Failing)
    for step in (1, 2, 3):
        logger.call("log", step, "train", {})
    logger.call("close", {})
    assert capsys.readouterr().err == (
        "warning: service: no network. Training continues without it.\n"
    )


def test_a_logger_that_cannot_start_does_not_end_the_run(capsys):
    def start():
        raise ImportError("no such client")

    Tolerated("service", start).call("log", 1, "train", {})
    assert "no such client" in capsys.readouterr().err


class Minimal:
    """A logger with what the protocol demands, and no more."""

    def __init__(self, config, where, start):
        self.calls = [("start", config.name, where.name, start)]

    def log(self, step, kind, values):
        self.calls.append((step, kind, values))

    def close(self, summary):
        self.calls.append(("close", summary))


def test_two_methods_make_a_logger(tmp_path, monkeypatch):
    created = []

    def minimal(*arguments):
        created.append(Minimal(*arguments))
        return created[-1]

    def factories(config):
        return {"failing": Failing, "minimal": minimal}

    monkeypatch.setattr("dst.train.records.loggers.factories", factories)
    with Loggers(small(tmp_path), tmp_path, 0) as loggers:
        loggers.log(5, "train", {"loss": np.float32(0.9), "skipped": np.int32(1)})
        loggers.log(6, "train", {"loss": np.float32("nan")})
        loggers.show(6, {}, always=True)  # nobody draws, so no mask is looked for
        loggers.rewind(5)
        loggers.finish({"accuracy": 1.0})
    assert created[0].calls == [
        ("start", "small", tmp_path.name, 0),
        (5, "train", {"loss": 0.9, "skipped": 1}),
        (6, "train", {}),
        ("close", {"accuracy": 1.0}),
    ]
    assert read(tmp_path / "metrics.jsonl") == [
        {"step": 5, "kind": "train", "loss": 0.9, "skipped": 1}
    ]


EVALUATION = {"loss": 0.5, "accuracy": 0.9, "sparsity": 0.8, "explored": 0.3}


def test_without_a_terminal_every_evaluation_is_a_plain_line(tmp_path, capsys):
    screen = Screen(small(tmp_path, "train.steps=100"), tmp_path, start=0)
    screen.log(5, "train", {"steps_per_second": 12.3})
    screen.log(10, "eval", EVALUATION)
    screen.close({})
    assert capsys.readouterr().out == (
        "step  10 / 100  test loss 0.5000  accuracy 0.9000  sparsity 0.8000  explored 0.3000  "
        "12 steps/s\n"
    )


def test_of_text_the_line_shows_bits_per_byte(tmp_path, capsys):
    scores = {"loss": 1.5, "bits_per_byte": 2.164, "accuracy": 0.5}
    Screen(small(tmp_path), tmp_path, start=0).log(9, "eval", EVALUATION | scores)
    assert "test loss 1.5000  bits per byte 2.1640  accuracy 0.5000" in capsys.readouterr().out
