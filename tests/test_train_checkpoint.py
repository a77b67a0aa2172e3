"""Laws of checkpoints: what was saved comes back, and damage is seen."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dst.train import checkpoint
from tests.training import assert_same

STATE = {
    "params": {"hidden": {0: {"kernel": jnp.arange(6.0).reshape(2, 3)}}},
    "opt_state": (optax.MaskedNode(), optax.EmptyState(), jnp.int32(7), jnp.uint8([1, 255])),
    "ema": None,
}


def test_what_was_saved_comes_back(tmp_path):
    checkpoint.save(tmp_path, 7, STATE, keep=3)
    assert checkpoint.damage(tmp_path, 7) is None
    assert_same(checkpoint.restore(tmp_path, 7, STATE), STATE)


def test_only_the_newest_stay(tmp_path):
    for step in (0, 10, 20, 30):
        checkpoint.save(tmp_path, step, STATE, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 30]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_of_a_step_replaces_those_after_it(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, STATE, keep=3)
    checkpoint.save(tmp_path, 20, STATE, keep=1)
    assert checkpoint.steps(tmp_path) == [20]


def test_what_a_killed_save_leaves_is_no_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 10, STATE, keep=3)
    (tmp_path / "000000020.part").mkdir()
    assert checkpoint.steps(tmp_path) == [10]
    checkpoint.save(tmp_path, 20, STATE, keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000010", "000000020"]


def _largest(path):
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "add", "manifest", "no manifest"])
def test_every_damage_is_seen(harm, tmp_path):
    checkpoint.save(tmp_path, 10, STATE, keep=3)
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
