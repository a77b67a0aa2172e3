"""Laws of prunings that were stopped: no stage is computed twice, and all bits agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dst
from tests.oneshot.test_calibrate import BATCHES, PROGRAMS

CALLS: list[str] = []


@dataclass(frozen=True)
class Counted:
    """SparseGPT that writes down which matrices it was called with."""

    needs: ClassVar[str] = "gram"

    def __call__(self, matrix):
        CALLS.append(matrix.name)
        return dst.SparseGPT(block=4)(matrix)


class Killed(Exception):
    pass


def prune(program="a list", dtype=jnp.float32, stop=None, **options):
    """Prunes a network; ``stop`` is the stage after which it is killed."""
    forward, blocks = PROGRAMS[program]
    params = {"blocks": jax.tree.map(lambda x: jnp.asarray(x, dtype), blocks)}

    def progress(step):
        if step.stage == stop:
            raise Killed

    CALLS.clear()
    return dst.prune(
        params,
        options.pop("sparsity", 0.5),
        method=Counted(),
        forward=forward,
        batches=options.pop("batches", BATCHES),
        progress=progress,
        **options,
    )


def assert_equal(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("program", ["a list", "a scan of remat"])
def test_a_pruning_that_was_stopped_goes_on_after_its_last_stage(tmp_path, program, dtype):
    whole = prune(program, dtype)
    names = list(CALLS)
    for stop in (0, 2):
        with pytest.raises(Killed):
            prune(program, dtype, stop, directory=tmp_path)
        assert set(CALLS) < set(names)
    assert_equal(prune(program, dtype, directory=tmp_path), whole)
    assert 0 < len(CALLS) < len(names)
    assert_equal(prune(program, dtype, directory=tmp_path), whole)
    assert not CALLS


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"sparsity": 0.6}, "plan"),
        ({"preserve": True}, "plan"),
        ({"structure": dst.NM(2, 4)}, "plan"),
        ({"dtype": jnp.bfloat16}, "weights"),
        ({"batches": [2 * x for x in BATCHES]}, "batches"),
        ({"where": lambda x: jnp.ones(x.shape[:-1], bool)}, "batches"),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_stages_of_another_pruning_are_refused(tmp_path, changed, what):
    with pytest.raises(Killed):
        prune(stop=0, directory=tmp_path)
    with pytest.raises(ValueError, match=f"holds stages of another pruning: another .*{what}"):
        prune(directory=tmp_path, **changed)


@pytest.mark.parametrize("damage", [b"", b"no tensors", b"cut"])
def test_a_damaged_stage_is_named(tmp_path, damage):
    with pytest.raises(Killed):
        prune(stop=0, directory=tmp_path)
    (file,) = tmp_path.glob("stage_*")
    file.write_bytes(file.read_bytes()[:-9] if damage == b"cut" else damage)
    with pytest.raises(ValueError, match=f"{file.name} holds no finished stage.*Delete it"):
        prune(directory=tmp_path)
    file.unlink()
    assert_equal(prune(directory=tmp_path), prune())


def test_values_that_wait_on_the_host_change_nothing():
    assert_equal(prune(offload=True), prune())
