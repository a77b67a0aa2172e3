"""Laws of runs that begin with given weights, masks and step."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import dst
from dst.train import loop, setup
from dst.train.config import run as config
from dst.train.records import checkpoint, loggers, run_dir
from tests.training import assert_same, small, states_in

DENSE = (
    "method=dense",
    "train.snapshots=[0, 25%, 40]",
    "train.eval_every=40",
    "optimizer.clip=null",
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A dense run that keeps its weights of the steps 0, 10 and 40."""
    folder = tmp_path_factory.mktemp("parent")
    loop.train(small(folder, *DENSE), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def masks(parent):
    """Half of every matrix, as a file beside the parent."""
    weights = dst.load_weights(parent / run_dir.weights(40))
    path = parent.parent / "masks.safetensors"
    dst.save_masks(
        path, {p: np.abs(w) > np.median(np.abs(w)) for p, w in weights.items() if w.ndim > 1}
    )
    return path


def _child(folder, parent, masks, *overrides):
    given = (
        "method=from_masks",
        f"start={{weights: {parent / run_dir.weights(10)}, masks: {masks}, step: 10}}",
    )
    return small(folder, *DENSE, "train.snapshots=[10, 40]", *given, *overrides)


def test_snapshots_are_the_weights_of_their_steps(parent):
    assert len(list(parent.glob("weights-*"))) == 3
    state = states_in(parent)[40]
    kept = dst.load_weights(parent / run_dir.weights(40))
    assert kept["out/kernel"].tobytes() == np.asarray(state.params["out"]["kernel"]).tobytes()
    first = setup.make(config.load(parent / "config.yaml")).begin()
    again = dst.load_weights(parent / run_dir.weights(0))
    assert again["out/kernel"].tobytes() == np.asarray(first.params["out"]["kernel"]).tobytes()


def test_a_run_goes_on_from_given_weights_masks_and_step(parent, masks, tmp_path):
    run = tmp_path / "run"
    loop.train(_child(tmp_path, parent, masks), run)
    first = dst.load_weights(run / run_dir.weights(10))
    given, mask = dst.load_weights(parent / run_dir.weights(10)), dst.load_masks(masks)
    for path, weights in first.items():
        kept = np.where(mask[path], given[path], 0) if path in mask else given[path]
        np.testing.assert_array_equal(weights, kept)
    final = dst.load_masks(run / run_dir.MASKS_FINAL)
    assert all((final[p] == mask[p]).all() for p in mask)
    # Learning rate and step count go on; the parent has the same schedule.
    rates = []
    for path in (parent, run):
        lines = [x for x in loggers.read(path / run_dir.METRICS) if x["kind"] == "train"]
        rates.append({x["step"]: x["learning_rate"] for x in lines})
    assert list(rates[1]) == list(range(15, 41, 5))
    assert rates[1] == {n: r for n, r in rates[0].items() if n > 10}


def test_without_optimizer_state_a_run_continues_as_if_it_had_never_stopped(parent, tmp_path):
    plain = (
        "optimizer={'name': 'sgd', 'weight_decay': 0.1}",
        "method=dense",
        "train.eval_every=40",
        "train.steps=20",
        "train.snapshots=[10, 20]",
    )
    loop.train(small(tmp_path, *plain), tmp_path / "a")
    start = f"start={{weights: {tmp_path / 'a' / run_dir.weights(10)}, step: 10}}"
    loop.train(small(tmp_path, *plain, start), tmp_path / "b")
    a, b = ((tmp_path / r / run_dir.weights(20)).read_bytes() for r in "ab")
    assert a == b


def test_a_run_with_a_start_resumes_wherever_it_is_moved(parent, masks, tmp_path):
    whole, moved = tmp_path / "whole", tmp_path / "elsewhere"
    found = _child(tmp_path, parent, masks)
    loop.train(found, whole)
    assert loop.train(found, tmp_path / "run", until=17) is None
    shutil.move(tmp_path / "run", moved)
    loop.resume(moved)
    assert_same(states_in(moved)[40], states_in(whole)[40])
    for name in (run_dir.weights(10), run_dir.weights(40)):
        assert (moved / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((moved / "summary.json").read_text())["steps"] == 40
    assert checkpoint.steps(moved / "checkpoints") == [20, 30, 40]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["method=from_masks"], ["start.masks", "from_masks"]),
        (["start.weights=nowhere"], ["start.weights", "nowhere"]),
        (["start.step=40"], ["start.step", "40"]),
        (["start.step=5"], ["start.step", "'rigl'", "topology steps"]),
        (["train.snapshots=[41]"], ["snapshots", "41"]),
        (["lottery.rounds=3"], ["lottery", "dst lottery"]),
        (["continual.tasks=3"], ["continual", "dst continual"]),
    ],
)
def test_a_start_that_cannot_be_is_refused(overrides, parts, tmp_path):
    with pytest.raises(config.ConfigError) as error:
        small(tmp_path, *overrides)
    assert all(part in str(error.value) for part in parts), error.value


def test_weights_of_another_model_are_refused(parent, tmp_path):
    start = f"start.weights={parent / run_dir.weights(0)}"
    for overrides in (["model.hidden=[8]"], ["model.hidden=[16, 16]"]):
        with pytest.raises(setup.SetupError, match="another model"):
            setup.make(small(tmp_path, "method=dense", start, *overrides))
