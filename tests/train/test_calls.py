"""Laws of calls that make several updates: only the number of calls from Python changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dst.train import loop, setup
from dst.train.records import checkpoint
from tests import faults
from tests.faults import records
from tests.training import assert_same, small, states_in

CALLS = "train.steps_per_call=4"  # logs, every 5 steps, cut them


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    loop.train(small(folder, CALLS), folder / "run")
    return folder / "run"


def test_the_run_is_the_one_of_single_calls(finished, tmp_path):
    loop.train(small(tmp_path), tmp_path / "run")
    for one, other in zip(records(tmp_path / "run"), records(finished), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            if isinstance(one[key], float):  # two programs may round differently
                np.testing.assert_allclose(other[key], one[key], rtol=1e-3, err_msg=key)
            else:
                assert other[key] == one[key], key
    ones, others = states_in(tmp_path / "run")[40], states_in(finished)[40]
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.evidence), 13])
def test_where_calls_are_cut_changes_no_bit(finished, step, tmp_path):
    run = tmp_path / "run"
    loop.train(small(tmp_path, CALLS), run, until=step)
    loop.resume(run)
    assert records(run) == records(finished)
    assert_same(states_in(run)[40], states_in(finished)[40])
    again = tmp_path / "again"
    loop.train(small(tmp_path, "train.steps_per_call=30"), again)
    assert_same(states_in(again)[40], states_in(finished)[40])


def test_two_programs_are_enough(tmp_path, monkeypatch):
    pieces = setup.make(small(tmp_path, CALLS))
    monkeypatch.setattr(setup, "make", lambda config: pieces)
    loop.train(small(tmp_path, CALLS), tmp_path / "run")
    assert pieces.steps._cache_size() <= 1  # JAX may have forgotten some, after many other tests
    assert pieces.step._cache_size() <= 1  # the topology step


def test_a_loss_within_a_call_is_reported_at_its_step(tmp_path, monkeypatch):
    with faults.before_step(monkeypatch, {}, bad=(18,)):  # the second of the call from 16 to 20
        with pytest.raises(loop.Diverged, match="loss is nan at step 18"):
            loop.train(small(tmp_path, CALLS), tmp_path / "run")


@pytest.mark.evidence
def test_an_update_within_a_call_is_skipped(tmp_path, monkeypatch):
    with faults.before_step(monkeypatch, {}, bad=(8,)):
        loop.train(small(tmp_path, CALLS, "train.on_nonfinite=skip"), tmp_path / "calls")
        loop.train(small(tmp_path, "train.on_nonfinite=skip"), tmp_path / "run")
    calls, single = states_in(tmp_path / "calls")[40], states_in(tmp_path / "run")[40]
    assert int(calls.skipped) == int(single.skipped) == 1
    for one, other in zip(jax.tree.leaves(single), jax.tree.leaves(calls), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)


def test_a_rollback_from_within_a_call_skips_the_same_batches(tmp_path, monkeypatch):
    with faults.before_step(monkeypatch, {}, bad=(18,)):
        loop.train(small(tmp_path, CALLS, "train.on_nonfinite=rollback"), tmp_path / "run")
    position = checkpoint.position(tmp_path / "run" / "checkpoints", 40)
    assert position["drawn"] == 48  # 11 to 18 were skipped


@pytest.mark.parametrize(
    "mesh",
    [
        "{'data': 4, 'model': 2, 'fully_sharded': True}",
        pytest.param("{'data': 8}", marks=pytest.mark.evidence),
    ],
)
def test_on_many_devices_calls_read_the_same_batches(finished, mesh, tmp_path):
    if jax.local_device_count() < 8:
        pytest.skip("needs eight devices")
    loop.train(small(tmp_path, CALLS, f"mesh={mesh}"), tmp_path / "run", until=13)
    one = {(x["kind"], x["step"]): x for x in records(finished)}
    for line in records(tmp_path / "run"):
        if line["kind"] == "train":
            np.testing.assert_allclose(line["loss"], one["train", line["step"]]["loss"], rtol=1e-3)
