"""Laws of checkpoints: what was saved comes back, and damage is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dst.train.records import checkpoint, manifest
from tests.training import assert_same, saved

STATE = {
    "params": {"hidden": {0: {"kernel": jnp.arange(6.0).reshape(2, 3)}}},
    "opt_state": (optax.MaskedNode(), optax.EmptyState(), jnp.int32(7), jnp.uint8([1, 255])),
    "ema": None,
}


def test_what_was_saved_comes_back(tmp_path):
    saved(tmp_path, {7: STATE})
    assert checkpoint.damage(tmp_path, 7) is None
    assert_same(checkpoint.restore(tmp_path, 7, STATE), STATE)


def test_only_the_newest_stay(tmp_path):
    saved(tmp_path, dict.fromkeys((0, 10, 20, 30), STATE), keep=2)
    assert checkpoint.steps(tmp_path) == [20, 30]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_of_a_step_replaces_those_after_it(tmp_path):
    saved(tmp_path, dict.fromkeys((10, 20, 30), STATE))
    saved(tmp_path, {20: STATE}, keep=1)
    assert checkpoint.steps(tmp_path) == [20]


def test_what_a_killed_save_leaves_is_no_checkpoint(tmp_path):
    saved(tmp_path, {10: STATE})
    (tmp_path / "000000020.part").mkdir()
    assert checkpoint.steps(tmp_path) == [10]
    saved(tmp_path, {20: STATE})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000010", "000000020"]


def _largest(path):
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_checkpoint_holds_the_state_of_its_step_while_later_steps_reuse_the_buffers(tmp_path):
    step = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
    first = {"a": jnp.zeros((1000, 1000)), "b": jnp.zeros((), jnp.int32)}
    state = jax.block_until_ready(step(first))
    with checkpoint.Writer(tmp_path, keep=3) as writer:
        for n in (1, 2, 3):
            writer.save(n, state, {"at": n})
            for _ in range(10):
                state = step(state)
    for n in (1, 2, 3):
        restored = checkpoint.restore(tmp_path, n, state)
        assert checkpoint.position(tmp_path, n) == {"at": n}
        assert {float(restored["a"].min()), float(restored["a"].max())} == {10 * n - 9}
        assert int(restored["b"]) == 10 * n - 9


def test_several_writers_of_a_process_save_at_the_same_time(tmp_path):
    paths, states = [tmp_path / str(i) for i in range(4)], [{"a": jnp.full(9, i)} for i in range(4)]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(checkpoint.Writer(path, keep=2, donated=False)) for path in paths
        ]
        for step in (1, 2):
            for writer, state in zip(writers, states, strict=True):
                writer.save(step, state, {"at": step})
        for writer in writers:
            writer.finish()
    for path, state in zip(paths, states, strict=True):
        assert checkpoint.steps(path) == [1, 2] and len(list(path.iterdir())) == 2
        for step in (1, 2):
            assert checkpoint.damage(path, step) is None
            assert_same(checkpoint.restore(path, step, state), state)


def test_the_best_stay_beside_the_newest(tmp_path):
    scores = {10: 0.3, 20: 0.9, 30: None, 40: 0.9, 50: 0.5, 60: None, 70: 0.1}
    with checkpoint.Writer(tmp_path, keep=2, keep_best=2) as writer:
        for step, score in scores.items():
            writer.save(step, STATE, {}, score)
    assert checkpoint.steps(tmp_path) == [20, 40, 60, 70]
    # Another process knows the scores too.
    with checkpoint.Writer(tmp_path, keep=1, keep_best=1) as writer:
        writer.save(80, STATE, {}, 0.2)
    assert checkpoint.steps(tmp_path) == [40, 80], "of equals, the later one"


def test_a_state_of_another_structure_is_refused(tmp_path):
    saved(tmp_path, {1: STATE})
    with pytest.raises(checkpoint.CheckpointError, match="other.* must be float32.*, found none"):
        checkpoint.restore(tmp_path, 1, STATE | {"other": jnp.zeros(3)})
    larger = STATE | {"params": {"hidden": {0: {"kernel": jnp.zeros((3, 3))}}}}
    with pytest.raises(
        checkpoint.CheckpointError, match=r"must be float32 \[3, 3\], found float32"
    ):
        checkpoint.restore(tmp_path, 1, larger)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "add", "manifest", "no manifest"])
def test_every_damage_is_seen(harm, tmp_path):
    saved(tmp_path, {10: STATE})
    path = tmp_path / "000000010"
    target = _largest(path / "state")
    if harm == "flip":
        data = np.frombuffer(target.read_bytes(), np.uint8).copy()
        data[len(data) // 2] ^= 1
        target.write_bytes(data.tobytes())
    elif harm == "cut":
        target.write_bytes(target.read_bytes()[:-1])
    elif harm == "remove":
        target.unlink()
    elif harm == "add":
        (path / "state" / "more").write_text("")
    elif harm == "manifest":
        (path / "manifest.json").write_text("[]")
    else:
        (path / "manifest.json").unlink()
    assert checkpoint.damage(tmp_path, 10)


def flipped(path, bits):
    """The damage after each of these bits of a manifest is flipped, one at a time."""
    file = path / "000000010" / "manifest.json"
    whole = file.read_bytes()
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(data))
        yield checkpoint.damage(path, 10)
    file.write_bytes(whole)


def test_a_flipped_bit_of_a_manifest_is_damage(tmp_path):
    saved(tmp_path, {10: STATE})
    bits = 8 * (tmp_path / "000000010" / "manifest.json").stat().st_size
    assert all(flipped(tmp_path, range(0, bits, bits // 100)))
    assert checkpoint.damage(tmp_path, 10) is None


@pytest.mark.evidence
def test_evidence_two_thousand_flipped_bits_of_a_manifest_are_damage(tmp_path):
    saved(tmp_path, {10: STATE})
    bits = 8 * (tmp_path / "000000010" / "manifest.json").stat().st_size
    chosen = np.random.default_rng(0).choice(bits, min(2000, bits), replace=False).tolist()
    unnoticed = [b for b, wrong in zip(chosen, flipped(tmp_path, chosen), strict=True) if not wrong]
    print(f"{len(chosen)} of {bits} bits flipped, {len(unnoticed)} unnoticed")
    assert not unnoticed


def test_a_checkpoint_under_another_steps_name_is_damage(tmp_path, capsys):
    saved(tmp_path, {10: STATE, 20: STATE})
    (tmp_path / "000000010").rename(tmp_path / "000000030")
    assert checkpoint.damage(tmp_path, 30) == "its manifest cannot be read (it is that of step 10)"
    assert checkpoint.newest_whole(tmp_path) == 20
    assert "of step 30 is damaged" in capsys.readouterr().out


def test_what_is_no_checkpoint_is_named_and_hinders_none(tmp_path, capsys):
    saved(tmp_path, {10: STATE})
    for name in ("20", "x", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "000000040").write_text("a file")
    manifest = tmp_path / "000000010" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"score": null', '"score": "good"'))
    with checkpoint.Writer(tmp_path, keep=1, keep_best=1) as writer:
        writer.save(20, STATE, {}, 0.5)
        writer.finish()
    assert checkpoint.newest_whole(tmp_path) == 20
    assert "ignored as no checkpoints: 20, x, ٣" in capsys.readouterr().out


def test_a_checkpoint_is_on_disk_before_the_one_it_replaces_is_deleted(tmp_path, monkeypatch):
    """Otherwise a loss of power may cost both."""
    flushed, fsync = [], os.fsync

    def record(number):
        if os.path.samestat(os.fstat(number), tmp_path.stat()):
            flushed.append(set(checkpoint.steps(tmp_path)))
        fsync(number)

    saved(tmp_path, {10: STATE}, keep=1)
    monkeypatch.setattr(os, "fsync", record)
    saved(tmp_path, {20: STATE}, keep=1)
    assert {10, 20} in flushed
    assert checkpoint.steps(tmp_path) == [20]


def test_after_a_save_that_failed_the_next_one_replaces_the_last_good_one(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with checkpoint.Writer(tmp_path, keep=1) as writer:
        writer.save(10, STATE, {})
        writer.finish()
        with monkeypatch.context() as patched:
            patched.setattr(manifest, "sums", full)
            writer.save(20, STATE, {})
            with pytest.raises(checkpoint.CheckpointError, match="newest is that of step 10"):
                writer.finish()
        assert checkpoint.steps(tmp_path) == [10]
        writer.save(30, STATE, {})
        writer.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["000000030"]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_to_an_older_checkpoint_does_not_stop_new_ones(harm, tmp_path):
    with checkpoint.Writer(tmp_path, keep=2, keep_best=1) as writer:
        for step, score in ((10, 0.9), (20, 0.3), (30, 0.1)):
            writer.save(step, STATE, {}, score)
    files = [p for p in (tmp_path / "000000010").rglob("*") if p.is_file()]
    for file in files:  # the one kept for its score, and every file of it
        _harm(file, harm)
    with checkpoint.Writer(tmp_path, keep=2, keep_best=1) as writer:
        writer.save(40, STATE, {}, 0.2)
        writer.finish()
    assert checkpoint.newest_whole(tmp_path) == 40


def _harm(file, how):
    data = bytearray(file.read_bytes())
    if how == "remove":
        file.unlink()
    elif how == "flip":
        if data:
            data[len(data) // 2] ^= 0x81
        file.write_bytes(data)
    else:
        file.write_bytes(data[:-1])


def test_only_what_orbax_prints_of_a_failure_is_left_out():
    program = """
import asyncio, gc, logging
from dst.train.records.quiet import Quiet

class Bad:
    def __del__(self):
        raise ValueError("of a destructor")

async def never_awaited():
    async def fails():
        raise ValueError("of a task")
    asyncio.get_running_loop().create_task(fails())
    await asyncio.sleep(0)

outer, inner = Quiet().__enter__(), Quiet().__enter__()
outer.__exit__()  # contexts of trials overlap
asyncio.run(never_awaited()); gc.collect()
Bad()
logging.getLogger("asyncio").error("another message")
inner.__exit__()
asyncio.run(never_awaited()); gc.collect()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("of a destructor") == 1 == result.stderr.count("another message")
    assert result.stderr.count("exception was never retrieved") == 1
