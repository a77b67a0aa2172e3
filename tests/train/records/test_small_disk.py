"""Laws of a disk without space: a message for each checkpoint that is missing, and nothing lost.

A disk is full by bytes or by inodes. The second one says that bytes are left.
"""

from __future__ import annotations

import gc
import shutil
import time

import numpy as np
import pytest

import dst
from dst import cli
from dst.train import loop
from dst.train.records import checkpoint
from tests import faults
from tests.faults import dst as command
from tests.faults import records, row
from tests.training import assert_same, small, states_in, write_small


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to which nothing happened."""
    folder = tmp_path_factory.mktemp("finished")
    loop.train(small(folder), folder / "run")
    return folder / "run"


def only_messages(text):
    """What was printed, when it is nothing but messages of one line each."""
    lines = text.splitlines()
    assert all(x.startswith(("warning: ", "error: ", "Once it can be written")) for x in lines), (
        text
    )
    return lines


@pytest.mark.parametrize("limit", faults.LIMITS)
def test_a_full_disk_costs_checkpoints_while_it_is_full(
    limit, finished, tmp_path, monkeypatch, capfd
):
    settled = faults.settle(monkeypatch)
    with faults.mounted(tmp_path / "disk") as disk:
        actions = {12: lambda: (settled(), faults.fill(disk, limit))}
        actions[29] = lambda: (settled(), faults.free(disk))
        with faults.before_step(monkeypatch, actions):
            loop.train(small(tmp_path, "train.log_every=1"), disk / "run")
        gc.collect()
        lines = only_messages(capfd.readouterr().err)
        (lost,) = [x for x in lines if "was not written" in x]
        assert "checkpoint of step 20 was not written, the newest is that of step 10" in lost
        assert f"no {'space' if limit == 'bytes' else 'inodes'} left" in lost
        waiting = [x for x in lines if "No space left on device. Records wait" in x]
        assert len(waiting) == (limit == "bytes")  # an open file needs no inode
        assert len(lines) == 1 + len(waiting)
        assert checkpoint.steps(disk / "run" / "checkpoints") == [10, 30, 40]
        assert_same(states_in(disk / "run")[40], states_in(finished)[40])
        of_training = [x for x in records(disk / "run") if x["kind"] == "train"]
        assert [x["step"] for x in of_training] == list(range(1, 41))
        others = [[x for x in records(r) if x["kind"] != "train"] for r in (disk / "run", finished)]
        assert others[0] == others[1]


def test_a_last_checkpoint_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)
    settled = faults.settle(monkeypatch)
    with faults.mounted(tmp_path / "runs") as disk:
        with faults.before_step(monkeypatch, {38: lambda: (settled(), faults.fill(disk))}):
            assert cli.main(["train", "small.yaml"]) == 1
        err = capsys.readouterr().err
        assert "checkpoint of step 40 was not written, the newest is that of step 30" in err
        assert "`dst resume runs/small` continues" in err
        faults.free(disk)
        assert cli.main(["resume", "runs/small"]) == 0


@pytest.mark.parametrize("limit", faults.LIMITS)
def test_masks_that_do_not_fit_are_an_error_of_the_system(limit, tmp_path):
    with faults.mounted(tmp_path / "disk", inodes=20) as disk:
        faults.fill(disk, limit)
        with pytest.raises(OSError, match="masks.safetensors was not written: .*No space left"):
            dst.save_masks(disk / "masks.safetensors", {"a": np.ones((100, 100), bool)})
        assert [p.name for p in disk.iterdir()] == [faults.BALLAST]


def trained(arguments, capfd):
    """Exit code and messages of a run in this process, with all that is printed late."""
    code = cli.main([str(x) for x in arguments])
    gc.collect()
    time.sleep(0.1)  # threads of TensorStore report after the error
    return code, only_messages(capfd.readouterr().err)


# Of bytes and of inodes: from less than the config needs to more than the whole run does. Each
# save, and each file at the end, is the first that does not fit, at some of them.
SIZES = range(8, 720, 32)  # in KiB
COUNTS = range(3, 100, 5)


@pytest.mark.evidence
@pytest.mark.parametrize("limit", faults.LIMITS)
def test_evidence_disks_of_every_size(limit, finished, tmp_path, capfd):
    path, codes, lost = write_small(tmp_path), [], 0
    for n in SIZES if limit == "bytes" else COUNTS:
        given = {"size": f"{n}k"} if limit == "bytes" else {"inodes": n}
        with faults.mounted(tmp_path / f"{limit}-{n}", **given) as disk:
            run = disk / "run"
            code, lines = trained(["train", path, "train.keep=1", "--dir", run], capfd)
            messages = [x for x in lines if "was not written" in x]
            lost += len(messages)
            assert code in (0, 1) and len(lines) <= 9, lines
            assert code == 0 or lines[-1].startswith(("error: ", "Once it can be written")), lines
            saved = run / "checkpoints"
            assert not any(checkpoint.damage(saved, n) for n in checkpoint.steps(saved))
            codes.append(code)
            faults.remount(disk, "size=8m,nr_inodes=1000")
            if not (run / "config.yaml").is_file():  # not one file fitted
                shutil.rmtree(run, ignore_errors=True)
                continue
            assert trained(["resume", run], capfd)[0] == 0
            assert not list(run.rglob("*.part"))
            assert records(run) == records(finished)
            assert_same(states_in(run)[40], states_in(finished)[40])
    assert codes[0] == 1 and codes[-1] == 0
    row(
        f"{len(codes)} small disks, limited by {limit}",
        f"{codes.count(1)} runs ended with exit 1, {lost} checkpoints named; all resume",
        "nothing",
    )


OFTEN = ["train.steps=400", "train.checkpoint_every=20", "train.eval_every=100"]


@pytest.mark.evidence
@pytest.mark.parametrize("limit", faults.LIMITS)
def test_evidence_full_disk(limit, tmp_path):
    path, whole = write_small(tmp_path), tmp_path / "whole"
    assert faults.ended(command("train", path, *OFTEN, "--dir", whole))[0] == 0
    with faults.mounted(tmp_path / "disk") as disk:
        run = disk / "run"
        process = command("train", path, *OFTEN, "--dir", run)
        faults.until(process, run, 110)
        while process.poll() is None:  # a checkpoint that failed has freed its space
            faults.fill(disk, limit)
            time.sleep(0.01)
        code, _, err = faults.ended(process)
        lines = only_messages(err)
        assert code == 1 and "was not written" in err
        newest = checkpoint.newest_whole(run / "checkpoints")
        assert newest is not None and newest >= 80
        faults.free(disk)
        code, _, err = faults.ended(command("resume", run))
        assert code == 0, err
        assert records(run) == records(whole)
        assert_same(states_in(run)[400], states_in(whole)[400])
    seen = " / ".join([*lines[:2], "...", lines[-1]])
    row(
        f"no {limit} left until the end of training",
        f"exit 1; {len(lines)} lines; {seen}",
        f"steps since {newest}",
    )
