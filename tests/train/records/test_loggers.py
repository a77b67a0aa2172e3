"""Laws of logs: cut back on resume, and no service ends a run."""

from __future__ import annotations

from dst.train.records import loggers as logs


def _line(step, kind="train", **more):
    return {"step": step, "kind": kind, **more}


def test_records_after_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = logs.JsonLines(path, 0)
    for step in (5, 10, 15):
        first.log(_line(step))
    first.close(None)
    with path.open("a") as file:
        file.write('{"step": 20, "ki')  # killed while writing
    second = logs.JsonLines(path, 10)
    second.log(_line(11, "topology"))
    second.close({})
    assert [line["step"] for line in logs.read(path)] == [5, 10, 11]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_logger_that_fails_is_told_once_and_left_alone(capsys):
    class Failing:
        def log(self, line):
            raise ConnectionError("no network")

        def close(self, summary):
            raise AssertionError("must not be called")

    logger = logs.Tolerated("service", Failing)
    logger.log(_line(1))
    logger.log(_line(2))
    logger.close({})
    assert capsys.readouterr().err.count("service: no network") == 1


def test_a_logger_that_cannot_start_does_not_end_the_run(capsys):
    def start():
        raise ImportError("no such client")

    logs.Tolerated("service", start).log(_line(1))
    assert "no such client" in capsys.readouterr().err


def test_without_a_terminal_every_evaluation_is_a_plain_line(capsys):
    screen = logs.Screen(steps=100, start=0)
    screen.log(_line(5, steps_per_second=12.3))
    screen.log(_line(10, "eval", loss=0.5, accuracy=0.9, sparsity=0.8, explored=0.3))
    screen.close({})
    assert capsys.readouterr().out == (
        "step  10 / 100  test loss 0.5000  accuracy 0.9000  sparsity 0.8000  explored 0.3000  "
        "12 steps/s\n"
    )


def test_of_text_the_line_tells_bits_per_byte(capsys):
    scores = {"loss": 1.5, "bits_per_byte": 2.164, "accuracy": 0.5}
    logs.Screen(steps=9, start=0).log(_line(9, "eval", **scores, sparsity=0, explored=0))
    assert "test loss 1.5000  bits per byte 2.1640  accuracy 0.5000" in capsys.readouterr().out
