"""Laws of faults: each one is reported, and costs at most the steps since a checkpoint."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dst
from dst import cli
from dst.train import loop
from dst.train.config import run as config
from dst.train.distributed import signals
from dst.train.records import checkpoint, run_dir
from tests import faults
from tests.faults import dst as command
from tests.faults import records, row
from tests.training import SMALL, assert_same, small, states_in, write_small


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to which nothing happened."""
    folder = tmp_path_factory.mktemp("finished")
    loop.train(small(folder), folder / "run")
    return folder / "run"


def same(run, finished):
    """Two runs have the same records and the same last state, bit for bit."""
    assert records(run) == records(finished)
    assert_same(states_in(run)[40], states_in(finished)[40])


def test_a_signal_stops_at_a_step_with_a_checkpoint(finished, tmp_path):
    run, before = tmp_path / "run", [signal.getsignal(n) for n in faults.SIGNALS]
    with pytest.raises(loop.Stopped, match="SIGINT after step"):
        with faults.signalled(run, 5, signal.SIGINT):
            loop.train(small(tmp_path), run)
    assert [signal.getsignal(n) for n in faults.SIGNALS] == before
    first = checkpoint.steps(run / "checkpoints")[-1]
    assert 5 <= first < 40
    with pytest.raises(loop.Stopped, match="SIGTERM after step"):
        with faults.signalled(run, first - first % 5 + 5, signal.SIGTERM):
            loop.resume(run)
    assert checkpoint.steps(run / "checkpoints")[-1] > first
    loop.resume(run)
    same(run, finished)


def test_a_second_signal_stops_at_once():
    program = """
import os, signal
from dst.train.distributed import signals
with signals.caught() as request:
    with signals.caught() as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner is request and request.name == "SIGTERM"
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("too late", flush=True)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == -signal.SIGINT and result.stdout == "still here\n"
    assert "a second signal stops at once" in result.stderr


def test_signals_of_schedulers_are_requests_and_an_ignored_one_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.caught() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.name is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert request.name == "SIGUSR1"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with signals.caught() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.name == "SIGHUP"
    finally:
        signal.signal(signal.SIGHUP, before)  # ignored, where the tests run under nohup


def test_a_run_directory_that_is_a_link_is_the_one_that_it_names(finished, tmp_path):
    run, link = tmp_path / "disk" / "run", tmp_path / "run"
    shutil.copytree(finished, run)
    link.symlink_to(run)
    run_dir.create(link, "name: new\n", overwrite=True).close()
    assert link.is_symlink() and (run / "config.yaml").read_text() == "name: new\n"
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "lock"]
    assert [p.name for p in run.parent.iterdir()] == ["run"]
    dangling = tmp_path / "later"
    dangling.symlink_to(tmp_path / "disk" / "later")
    run_dir.create(dangling, "name: new\n", overwrite=False).close()
    assert (tmp_path / "disk" / "later" / "config.yaml").is_file()


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(run_dir.DirectoryError, match="lock is a symbolic link"):
        run_dir.lock(tmp_path)
    assert (tmp_path / "precious").read_text() == "text"


def test_a_call_is_no_longer_than_what_is_between_two_records(tmp_path):
    train = small(tmp_path, "train.steps_per_call=1000000000").train
    assert train.most_per_call() == train.interval("log_every") == 5


def test_a_signal_stops_a_whole_study_and_the_code_says_resume_me(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    dense = SMALL.replace("{name: rigl, sparsity: 0.8, every: 10, stop: 75%}", "dense")
    (tmp_path / "small.yaml").write_text(dense, encoding="utf-8")
    study = "lottery={'name': 'tickets', 'rounds': 1, 'rewind': 10}"
    where = tmp_path / "runs" / "small"
    with faults.signalled(where / "round-00", 5, signal.SIGTERM):
        assert cli.main(["lottery", "small.yaml", study]) == 75
    assert "SIGTERM after step" in (err := capfd.readouterr().err)
    assert "`dst resume runs/small` continues" in err
    assert [p.name for p in where.glob("round-*")] == ["round-00"]
    assert cli.main(["resume", "runs/small", "seed=1"]) == 2
    assert "is a study" in capfd.readouterr().err


def test_a_run_directory_has_one_writer(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    arguments = ["train", str(write_small(tmp_path)), "--dir", str(run), "--overwrite"]
    with run_dir.lock(run):
        for call in (["resume", str(run)], arguments):
            assert cli.main(call) == 2
            assert f"{run} is in use by process {os.getpid()} on" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in before} == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    run_dir.lock(run).close()  # free again


def test_a_skipped_update_changes_nothing_but_the_count(finished, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    # The 7th is an ordinary step; the 11th a topology step, done at the 12th instead.
    with faults.before_step(monkeypatch, {}, bad=(7, 11)):
        loop.train(small(tmp_path, "train.on_nonfinite=skip"), run, until=30)
        assert "1 of the 5 updates until step 10 were skipped" in capsys.readouterr().err
    lines = records(run)
    assert [x["step"] for x in lines if x["kind"] == "topology"] == [11, 12, 21]
    assert [x["dropped"] > 0 for x in lines if x["kind"] == "topology"] == [False, True, True]
    train = {x["step"]: x for x in lines if x["kind"] == "train"}
    assert [train[n]["skipped"] for n in (5, 10, 15, 30)] == [0, 1, 2, 2]
    # The learning rate is that of the updates that were taken.
    usual = {x["step"]: x for x in records(finished) if x["kind"] == "train"}
    assert train[5]["learning_rate"] == usual[5]["learning_rate"]
    assert train[15]["learning_rate"] > usual[15]["learning_rate"]
    state = states_in(run)[30]
    dst.check_invariants(state.opt_state, state.params)
    assert int(state.opt_state.count) == 30 and int(state.opt_state.topology.done) == 2


def test_what_only_skips_stops(tmp_path, monkeypatch):
    with faults.before_step(monkeypatch, {}, bad=range(9, 41)):
        with pytest.raises(loop.Diverged, match="last 20 updates were skipped until step 30"):
            loop.train(small(tmp_path, "train.on_nonfinite=skip"), tmp_path / "run")


def test_a_rollback_continues_after_the_bad_batch(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with faults.before_step(monkeypatch, {}, bad=(17,)):
        loop.train(small(tmp_path, "train.on_nonfinite=rollback"), run)
    assert "Rolling back to step 10 (1 of 3)" in (out := capsys.readouterr().out)
    assert "after that of step 17" in out
    assert [x["step"] for x in records(run) if x["kind"] == "train"] == list(range(5, 41, 5))
    # Seven batches were skipped: after step 10 comes the 18th.
    assert checkpoint.position(run / "checkpoints", 40)["drawn"] == 47
    straight = tmp_path / "straight"
    shutil.copytree(run, straight)
    for step in (30, 40):
        shutil.rmtree(straight / "checkpoints" / f"{step:09d}")
    loop.resume(straight)
    same(straight, run)


def test_rollbacks_that_do_not_help_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)
    bad = ["optimizer.name=sgd", "optimizer.learning_rate=1e6", "optimizer.warmup=0"]
    bad += ["optimizer.clip=null", "train.on_nonfinite=rollback"]
    assert cli.main(["train", "small.yaml", *bad]) == 1
    output = capsys.readouterr()
    assert output.out.count("Rolling back to step 0") == 3
    assert "3 rollbacks to it have not helped" in output.err


def test_a_resumed_run_says_what_differs(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / f"{40:09d}")
    saved = (run / "config.yaml").read_bytes()

    def resume(*arguments):
        code = cli.main(["resume", str(run), *arguments])
        return code, capsys.readouterr()

    code, output = resume("optimizer.learning_rate=1e-3", "train.keep=1")
    assert code == 2 and "optimizer.learning_rate: 0.003 -> 0.001" in output.err
    assert "train.keep: 3 -> 1" in output.err and "--changed" in output.err
    code, output = resume("start.step=3", "method={'name': 'static', 'sparsity': 0.8}", "--changed")
    assert code == 2 and "has started" in output.err
    code, output = resume("train.steps=25", "--changed")
    assert code == 2 and "train.steps must be at least 30" in output.err
    code, output = resume("model.hidden=[17]", "--changed")
    assert code == 1 and "another network, optimizer or method" in output.err
    assert (run / "config.yaml").read_bytes() == saved

    code, output = resume("optimizer.learning_rate=1e-3", "train.keep=1", "--changed")
    assert code == 0 and "optimizer.learning_rate: 0.003 -> 0.001" in output.out
    kept = config.load(run / "config.yaml")
    assert (kept.optimizer.value.learning_rate, kept.train.keep) == (1e-3, 1)
    assert checkpoint.steps(run / "checkpoints") == [40]
    assert records(run)[:-3] == records(finished)[:-3] and records(run) != records(finished)


BAD_LINES = {
    "garbage": b"\x00\xff not JSON {\n",
    "null": b"null\n",
    "empty": b"\n",
    "a list": b"[1, 2]\n",
    "no step": b'{"kind": "eval", "loss": 1}\n',
    "a step that is none": b'{"kind": "eval", "step": "x"}\n',
    "brackets": b"[" * 100_000 + b"\n",
    "another end of line": "\u2028\x0b\n".encode(),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_among_the_records_is_named_and_left_out(name, finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / f"{40:09d}")
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], BAD_LINES[name], *lines[3:]]))
    assert cli.main(["resume", str(run)]) == 0
    assert f"{path}: left out as no record of a run: line 4." in capsys.readouterr().err
    assert records(run) == records(finished)


def test_records_that_are_lost_cost_their_figures_alone(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "metrics.jsonl").unlink()
    (run / "summary.json").write_text("[1]")
    figures = loop.resume(run)
    kept = json.loads((finished / "summary.json").read_text())
    assert "accuracy" not in figures and figures["sparsity"] == pytest.approx(kept["sparsity"])


def damaged(data):
    """A file in five ways: emptied, cut, one bit flipped, garbage, something else of its kind."""
    flipped = bytearray(data or b"\0")
    flipped[len(flipped) // 2] ^= 4
    return {
        "emptied": b"",
        "cut": data[: len(data) // 2],
        "flipped": bytes(flipped),
        "garbage": b"\x00\xff{[" * 50,
        "null": b"null\n",
    }


@pytest.mark.evidence
def test_every_file_damaged_in_five_ways_costs_a_message_at_most(finished, tmp_path, capsys):
    names = [p.relative_to(finished) for p in contents(finished)]
    last = Path("checkpoints") / f"{40:09d}"
    outcomes = {}
    for name in sorted(names):
        for way, data in damaged((finished / name).read_bytes()).items():
            run = tmp_path / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(finished, run)
            if last not in name.parents:
                shutil.rmtree(run / last)
            (run / name).write_bytes(data)
            resumed = cli.main(["resume", str(run)])
            reported = cli.main(["report", str(run)])
            text = capsys.readouterr().err
            outcomes[f"{name} {way}"] = (resumed, reported)
            assert "Traceback" not in text, (name, way, text)
            assert resumed in (0, 2) and reported in (0, 2), (name, way, resumed, text)
            if resumed == 0 and name != Path("config.yaml"):
                ends = [r / "masks-final.safetensors" for r in (run, finished)]
                assert ends[0].read_bytes() == ends[1].read_bytes(), (name, way)
    resumes = sum(resumed == 0 for resumed, _ in outcomes.values())
    row(f"each file damaged, {len(outcomes)} cases", f"{resumes} resume", "none")


def contents(run):
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.mark.parametrize(
    "override",
    [
        "method.sparsity=0.95",
        "method.drop_fraction=0.1",
        "method.every=5",
        "seed=1",
        "train.steps=60",
    ],
)
@pytest.mark.parametrize("by_hand", [False, True], ids=["override", "by hand"])
def test_what_the_state_follows_from_cannot_change(override, by_hand, finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / f"{40:09d}")
    if by_hand:
        path = run / "config.yaml"
        path.write_text(config.dump(config.load(path, [override])), encoding="utf-8")
    before = contents(run)
    given = [] if by_hand else [override]
    assert cli.main(["resume", str(run), *given, "--changed"]) == 2
    key, _, value = override.partition("=")
    message = capsys.readouterr().err
    assert key in message and "Train a new run" in message
    assert contents(run) == before


def test_a_config_edited_by_hand_needs_consent(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / f"{40:09d}")
    path = run / "config.yaml"
    edited = config.dump(config.load(path, ["optimizer.learning_rate=1e-3"]))
    path.write_text(edited, encoding="utf-8")
    assert cli.main(["resume", str(run)]) == 2
    message = capsys.readouterr().err
    assert "optimizer.learning_rate: 0.003 -> 0.001" in message and "--changed" in message
    assert cli.main(["resume", str(run), "--changed"]) == 0
    position = checkpoint.position(run / "checkpoints", 40)
    assert position["config"]["optimizer"]["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    "override", ["optimizer.learning_rate=1e-3", "train.keep=1", "train.steps=80"]
)
def test_a_finished_run_is_never_rewritten(override, finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = contents(run)
    assert cli.main(["resume", str(run), override, "--changed"]) == 2
    message = capsys.readouterr().err
    assert "has finished" in message and override.partition("=")[0] in message
    assert cli.main(["resume", str(run)]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert before.items() <= contents(run).items()  # a report may have come


def test_what_changes_no_mathematics_may_change(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / f"{40:09d}")
    free = ("train.log_every=2", "train.checkpoint_every=3", "train.keep_best=1", "mesh.data=1")
    loop.resume(run, [*free, "train.on_nonfinite=rollback", "name=other"])
    assert_same(states_in(run)[40], states_in(finished)[40])
    # Every checkpoint on the grid was evaluated: the best of them stays beside the newest three.
    assert [x["step"] for x in records(run) if x["kind"] == "eval"] == [20, 33, 36, 39, 40]


# The fault table. Each run is one that users start; everything happens to it for real.

# Long enough that a signal meets a run that trains, on a busy machine, too.
LAST = 1200
OFTEN = [f"train.steps={LAST}", "train.checkpoint_every=20", "train.eval_every=100"]
OFTEN += ["model.hidden=[400, 400]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run like those below, to which nothing happened."""
    folder = tmp_path_factory.mktemp("whole")
    process = command("train", write_small(folder), *OFTEN, "--dir", folder / "run")
    assert faults.ended(process)[0] == 0
    return folder / "run"


def finishes_like(whole, run):
    """A resumed run ends as if it had never stopped."""
    code, _, err = faults.ended(command("resume", run))
    assert code == 0, err
    assert records(run) == records(whole)
    assert_same(states_in(run)[LAST], states_in(whole)[LAST])


def test_processes_of_tests_hear_signals_that_the_tests_ignore():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with faults.heard():
            answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert answer.stdout.split() == ["False"]


@pytest.mark.evidence
@pytest.mark.parametrize("number", faults.SIGNALS, ids=lambda n: n.name)
def test_evidence_signals(number, whole, tmp_path):
    run = tmp_path / "run"
    process = command("train", write_small(tmp_path), *OFTEN, "--dir", run)
    faults.until(process, run, 110)
    process.send_signal(number)
    code, _, err = faults.ended(process)
    assert code == 75
    last, newest = faults.last_step(run), checkpoint.steps(run / "checkpoints")[-1]
    assert newest >= last
    finishes_like(whole, run)
    row(f"{number.name} during training", f"exit 75; {err}", "nothing")


@pytest.mark.evidence
def test_evidence_second_signal(whole, tmp_path):
    run = tmp_path / "run"
    # Large steps and checkpoints: the second signal comes before the first one has stopped the run.
    slow = ["model.hidden=[6000, 6000]", "data.batch_size=1024"]
    process = command("train", write_small(tmp_path), *OFTEN, *slow, "--dir", run)
    faults.until(process, run, 5)
    process.send_signal(signal.SIGTERM)
    assert "a second signal stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    start = time.perf_counter()
    code, _, err = faults.ended(process)
    assert code == -signal.SIGTERM
    seconds = time.perf_counter() - start
    row("SIGTERM twice", f"ended by the signal after {seconds:.2f} s; {err}", "steps since step 0")


@pytest.mark.evidence
@pytest.mark.parametrize("harm", ["cut", "bit flipped"])
def test_evidence_damaged_checkpoint(harm, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    saved = run / "checkpoints"
    before, last = checkpoint.steps(saved)[-2:]
    newest = saved / f"{last:09d}"
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data[:-1] if harm == "cut" else data)
    code, out, _ = faults.ended(command("resume", run))
    assert code == 0
    seen = next(line for line in out.splitlines() if "damaged" in line)
    assert f"resuming at step {before}" in out
    assert records(run) == records(whole)
    assert_same(states_in(run)[LAST], states_in(whole)[LAST])
    row(f"newest checkpoint: file {harm}", seen, f"that one; {last - before} steps done again")


@pytest.mark.evidence
def test_evidence_two_writers(whole, tmp_path):
    run, path = tmp_path / "run", write_small(tmp_path)
    process = command("train", path, *OFTEN, "--dir", run)
    faults.until(process, run, 50)
    process.send_signal(signal.SIGSTOP)  # so that it is still there when the others have come
    codes = []
    for arguments in (["resume", run], ["train", path, "--dir", run, "--overwrite"]):
        code, _, err = faults.ended(command(*arguments))
        codes.append(code)
        assert f"in use by process {process.pid} on" in err
    assert codes == [2, 2]
    process.kill()
    faults.ended(process)
    finishes_like(whole, run)  # a killed run leaves no lock
    row("a second process on the same directory", f"exit 2; {err}", "nothing")


@pytest.mark.evidence
def test_evidence_read_only_directory(whole, tmp_path):
    with faults.mounted(tmp_path / "disk") as disk:
        shutil.copytree(whole, disk / "run")
        faults.remount(disk, "ro")
        path = write_small(tmp_path)
        for arguments in (["train", path, "--dir", disk / "new"], ["resume", disk / "run"]):
            code, _, err = faults.ended(command(*arguments))
            assert code == 1 and "Read-only file system" in err and "Traceback" not in err
        row("read-only directory at the start", f"exit 1; {err}", "nothing was started")


@pytest.mark.evidence
@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_evidence_nonfinite(policy, tmp_path):
    run = tmp_path / "run"
    bad = ["optimizer.name=sgd", "optimizer.learning_rate=1e6", "optimizer.warmup=0"]
    bad += ["optimizer.clip=null", f"train.on_nonfinite={policy}"]
    process = command("train", write_small(tmp_path), *OFTEN, *bad, "--dir", run)
    code, out, err = faults.ended(process)
    assert code == 1 and "Traceback" not in err
    assert (newest := checkpoint.newest_whole(run / "checkpoints")) is not None
    state = states_in(run)[newest]
    assert np.isfinite(state.params["out"]["kernel"]).all()
    seen = "\n".join([x for x in out.splitlines() if "Rolling" in x] + err.splitlines()[-1:])
    row(f"loss made NaN by a learning rate of 1e6, {policy}", f"exit 1; {seen}", "no checkpoint")


@pytest.mark.evidence
def test_evidence_wandb_refuses(whole, tmp_path):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    path = write_small(tmp_path)
    process = command(
        *("train", path, *OFTEN, "wandb.mode=online", "--dir", run),
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY="0" * 40,
        WANDB_INIT_TIMEOUT="5",
    )
    code, _, err = faults.ended(process)
    assert code == 0, err
    warnings = [line for line in err.splitlines() if line.startswith("warning: Weights & Biases")]
    assert len(warnings) == 1
    assert records(run) == records(whole)
    assert_same(states_in(run)[LAST], states_in(whole)[LAST])
    row("W&B at an address that refuses", f"exit 0; {warnings[0]}", "nothing but W&B's copy")


KILLS = 200


@pytest.mark.evidence
def test_evidence_two_hundred_kills(tmp_path):
    path, chance = write_small(tmp_path), random.Random(0)
    steps = 8000
    often = [f"train.steps={steps}", "train.checkpoint_every=5", "train.eval_every=2000"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    forked = faults.Forked(tmp_path / "cache")
    process = forked.start(path, [*often, "train.checkpoint_every=2000"], whole)
    process.join()
    assert process.exitcode == 0

    newest, most, during = -1, 0, 0
    for i in range(KILLS):
        before = faults.last_step(killed)
        process = forked.start(path, often, killed)
        # Every tenth one, and the first three, die while they set up or restore; the others at a
        # random step.
        early = i < 3 or i % 10 == 0
        moment = before + chance.randrange(1, 30)
        deadline = time.monotonic() + (chance.uniform(0, 3) if early else 300)
        while faults.last_step(killed) < moment and time.monotonic() < deadline:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run ended before it was killed"
        during += any((killed / "checkpoints").glob("*.part"))
        step = checkpoint.newest_whole(killed / "checkpoints")
        if step is not None:
            assert step >= newest, "a checkpoint was lost"
            newest = step
            most = max(most, faults.last_step(killed) - step)
    process = forked.start(path, often, killed)
    process.join()
    assert process.exitcode == 0
    assert records(killed) == records(whole)
    assert_same(states_in(killed)[steps], states_in(whole)[steps])
    assert not list(killed.rglob("*.part"))
    assert most <= 10, "those of one checkpoint being written, and the steps since"
    assert during >= KILLS // 5
    row(
        f"SIGKILL at {KILLS} random moments, {during} of them during a save",
        "nothing; `dst resume` continues, and the run ends bit for bit like one never killed",
        f"at most {most} logged steps, with a checkpoint every 5; no checkpoint",
    )
