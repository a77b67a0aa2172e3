"""Laws of several processes as one run: they train like one, stop together and resume together.

They are real processes on this machine, under `dst launch`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import dst
from dst.train import loop
from dst.train.config import run as config
from dst.train.distributed import processes
from dst.train.records import checkpoint, run_dir
from tests import faults
from tests.faults import ended, last_step, proc, records, row, until
from tests.training import ROOT, assert_same, states_in, write_small

# Compilation is most of what short runs cost.
QUICK = "--xla_backend_optimization_level=0"
EIGHT = "--xla_force_host_platform_device_count=8"
HEARTBEAT = 10  # seconds
MARGIN = 30  # more, on a machine that does other work too

pytestmark = pytest.mark.skipif(jax.local_device_count() < 8, reason="needs eight devices")


def launch(devices: int, *arguments: object, **environment: str) -> subprocess.Popen:
    """Two processes."""
    command = ("launch", "-n", 2, "--devices-per-process", devices, *arguments)
    return faults.dst(*command, f"hosts.heartbeat={HEARTBEAT}", **environment)


def done(process: subprocess.Popen) -> str:
    """The output of a process that must succeed."""
    code, out, err = ended(process)
    assert code == 0, err
    return out


def children(process: subprocess.Popen) -> list[int]:
    """Process ids, in the order in which they were started."""
    path = proc(process) / "task" / str(process.pid) / "children"
    return sorted(map(int, path.read_text().split()))


def assert_close(one: Path, two: Path) -> None:
    """Two runs have the same records but for rounding; integers are equal."""
    first, second = records(one), records(two)
    assert [(x["step"], x["kind"]) for x in first] == [(x["step"], x["kind"]) for x in second]
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, int):
                assert value == b[key], key
            elif key == "loss":
                np.testing.assert_allclose(value, b[key], rtol=1e-4, err_msg=f"{a['step']}")


def test_two_processes_train_like_one(tmp_path):
    """Weights, masks and moments are divided among all devices, so no process has them whole."""
    settings = (
        "train={'steps': 12, 'log_every': 3, 'eval_every': 6, 'checkpoint_every': 6}",
        "train.snapshots=[6]",
        "method.every=4",
        "mesh={'data': 4, 'fully_sharded': True}",
    )
    path, one, two = write_small(tmp_path), tmp_path / "one", tmp_path / "two"
    both = launch(2, "train", path, *settings, "--dir", two, XLA_FLAGS=QUICK)
    loop.train(config.load(path, settings), one)
    assert done(both).count("test accuracy") == 1  # only the first process prints
    assert (two / "report.html").is_file()
    assert config.load(two / run_dir.CONFIG).hosts == processes.Hosts(heartbeat=HEARTBEAT)

    assert_close(one, two)
    for name in (run_dir.MASKS_INITIAL, run_dir.MASKS_FINAL):
        assert_same(dst.load_masks(one / name), dst.load_masks(two / name))
    first, second = (dst.load_weights(run / run_dir.weights(6)) for run in (one, two))
    for name, weight in first.items():
        np.testing.assert_allclose(weight, second[name], rtol=1e-4, atol=1e-6)
    saved = two / run_dir.CHECKPOINTS
    assert [checkpoint.damage(saved, n) for n in checkpoint.steps(saved)] == [None] * 3


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"coordinator": "here"}, "coordinator must be null, auto or host:port, got 'here'"),
        ({"coordinator": "a:1", "process": 0}, "processes"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process must be below 2"),
        ({"processes": 2}, "processes must be null unless coordinator is host:port, got 2"),
        ({"heartbeat": 0}, "heartbeat"),
    ],
)
def test_wrong_addresses_are_refused(given, expected):
    with pytest.raises(ValueError, match=expected):
        processes.Hosts(**given)


def test_one_process_starts_nothing():
    processes.join(processes.Hosts())
    assert not jax.distributed.is_initialized()
    assert processes.first()
    assert processes.decided(lambda: 3) == 3
    ones = jax.numpy.ones(3)
    assert processes.gathered({"x": ones})["x"] is ones


@pytest.mark.evidence
def test_the_quickstart_on_two_times_four_devices_is_that_on_eight(tmp_path):
    settings = ("train={'steps': 500, 'eval_every': 250, 'checkpoint_every': 50, 'keep': 100}",)
    path, runs = ROOT / "configs/digits/rigl.yaml", [tmp_path / "1 x 8", tmp_path / "2 x 4"]
    alone = faults.dst("train", path, *settings, "--dir", runs[0], XLA_FLAGS=EIGHT)
    done(alone)
    done(launch(4, "train", path, *settings, "--dir", runs[1]))

    one, two = map(states_in, runs)
    overlaps = {}
    for step, first in one.items():
        pairs = [dst.masks(state.opt_state) for state in (first, two[step])]
        both = [(m, pairs[1][name]) for name, m in pairs[0].items()]
        assert [int(a.sum()) for a, _ in both] == [int(b.sum()) for _, b in both]
        overlaps[step] = sum(int((a & b).sum()) for a, b in both) / sum(
            int(a.sum()) for a, _ in both
        )
        if overlaps[step] == 1:
            assert_equal_losses(runs, step)
    assert all(overlaps[step] == 1 for step in overlaps if step <= 250)
    figures = ", ".join(f"{step}: {x:.4f}" for step, x in overlaps.items() if step % 100 == 50)
    row("quickstart, 2 processes x 4 devices against 1 x 8", "mask overlap by step", figures)


def assert_equal_losses(runs: list[Path], step: int) -> None:
    one, two = ({x["step"]: x["loss"] for x in records(r) if x["kind"] == "train"} for r in runs)
    np.testing.assert_allclose(one.get(step, 0), two.get(step, 0), rtol=1e-2)


STEPS = 900
LONG = (
    f"train={{'steps': {STEPS}, 'log_every': 10, 'eval_every': 500, 'checkpoint_every': 100}}",
    "mesh.data=-1",
)


def started(tmp_path: Path, run: Path) -> subprocess.Popen:
    """Two processes that train and have written checkpoints."""
    process = launch(4, "train", write_small(tmp_path), *LONG, "--dir", run, XLA_FLAGS=QUICK)
    until(process, run, 250)
    return process


@pytest.mark.evidence
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_the_other_ends_and_both_resume(victim, tmp_path):
    run = tmp_path / "run"
    process = started(tmp_path, run)
    os.kill(children(process)[victim], signal.SIGKILL)
    at = time.monotonic()
    code, _, err = ended(process)
    took, lost_from = time.monotonic() - at, last_step(run)
    assert code == 1
    assert took < HEARTBEAT + MARGIN
    said = [line for line in err.splitlines() if line.startswith("dst launch:")]
    assert said[0] == f"dst launch: process {victim} ended by SIGKILL"
    assert "`dst launch ... resume RUN_DIR` continues" in said[1]
    assert any(line.startswith(f"dst launch: process {1 - victim} ended ") for line in said)

    newest = checkpoint.newest_whole(run / run_dir.CHECKPOINTS)
    out = done(launch(4, "resume", run, XLA_FLAGS=QUICK))
    assert f"resuming at step {newest} of {STEPS}" in out
    assert last_step(run) == STEPS
    row(
        f"2 processes, SIGKILL for number {victim}",
        f"exit {code} after {took:.1f} s: {' / '.join(said)}",
        f"{lost_from - newest} steps",
    )


@pytest.mark.evidence
def test_ten_kills_of_one_or_of_all_end_like_a_run_that_was_never_killed(tmp_path):
    """The victim and the moment are drawn; the run ends with the same bits."""
    chance, path = np.random.default_rng(0), write_small(tmp_path)
    given = (*LONG[1:], f"train={{'steps': {STEPS}, 'log_every': 10, 'checkpoint_every': 20}}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done(launch(1, "train", path, *given, "--dir", whole, XLA_FLAGS=QUICK))

    most, kills = 0, 10
    arguments: tuple[object, ...] = ("train", path, *given, "--dir", killed)
    for kill in range(kills):
        process = launch(1, *arguments, XLA_FLAGS=QUICK)
        until(process, killed, min(STEPS - 50, last_step(killed) + int(chance.integers(10, 60))))
        victims = [(0,), (1,), (0, 1)][kill % 3]
        pids = children(process)
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        assert ended(process)[0] == 1
        step = checkpoint.newest_whole(killed / run_dir.CHECKPOINTS)
        if step is not None:
            most, arguments = max(most, last_step(killed) - step), ("resume", killed)
    done(launch(1, *arguments, XLA_FLAGS=QUICK))
    assert records(killed) == records(whole)
    assert_same(states_in(killed)[STEPS], states_in(whole)[STEPS])
    assert not list(killed.rglob("*.part"))
    row(
        f"2 processes, {kills} kills of one or of both",
        "the same end, bit for bit",
        f"{most} steps",
    )


@pytest.mark.evidence
def test_both_stop_at_one_step_and_processes_come_and_go(tmp_path):
    run = tmp_path / "run"
    saved = run / run_dir.CHECKPOINTS
    process = started(tmp_path, run)
    os.kill(children(process)[1], signal.SIGTERM)  # one of them: the other stops, too
    first = stopped(process, run)

    alone = faults.dst("resume", run, XLA_FLAGS=f"{QUICK} {EIGHT}")
    until(alone, run, first + 150)
    alone.send_signal(signal.SIGTERM)
    second = stopped(alone, run)

    process = launch(4, "resume", run, XLA_FLAGS=QUICK)
    until(process, run, second + 150)
    process.send_signal(signal.SIGTERM)  # the launcher passes it on
    third = stopped(process, run)
    assert f"resuming at step {third} of {STEPS}" in done(launch(4, "resume", run, XLA_FLAGS=QUICK))
    assert last_step(run) == STEPS

    states = states_in(run).values()
    counts = [[int(m.sum()) for m in dst.masks(state.opt_state).values()] for state in states]
    assert all(count == counts[0] for count in counts)
    assert checkpoint.newest_whole(saved) == STEPS
    row(
        "2 processes, SIGTERM for one, and for the launcher; one process between",
        f"exit 75 at steps {first}, {second} and {third}",
        "nothing",
    )


def stopped(process: subprocess.Popen, run: Path) -> int:
    """The step after which a signal has stopped a run, with a checkpoint."""
    code, _, err = ended(process)
    assert code == 75, err
    step = checkpoint.newest_whole(run / run_dir.CHECKPOINTS)
    assert f"after step {step} of {STEPS}; `dst resume {run}` continues" in err
    return step


@pytest.mark.evidence
def test_all_roll_back_together(tmp_path):
    """One device in each process, as on a cluster with a process for each GPU."""
    path, run = write_small(tmp_path), tmp_path / "run"
    # By the decay every weight grows 1e5 times a step: no network survives that.
    bad = ("optimizer.learning_rate=1e6", "optimizer.weight_decay=0.1")
    given = (*bad, "train.on_nonfinite=rollback", "mesh.data=2")
    code, out, err = ended(launch(1, "train", path, *given, "--dir", run, XLA_FLAGS=QUICK))
    assert code == 1
    assert out.count("Rolling back to step 0") == 3
    assert err.count("3 rollbacks to it have not helped") == 2  # each process prints the error
    assert "was not written" not in err
    row("2 processes, losses that are not finite", f"exit {code}: {err}", "nothing")


@pytest.mark.evidence
def test_what_the_first_process_refuses_ends_all(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "something").touch()
    code, out, err = ended(launch(1, "train", write_small(tmp_path), "mesh.data=2", "--dir", run))
    assert code == 2
    assert f"{run} exists" in err and not out
    row("2 processes, a directory that exists", f"exit {code}: {err}", "nothing")
