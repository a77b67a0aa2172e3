"""Laws of named arrays: what is in the file is trained on, or an error says why not."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from dst import cli
from dst.train import loop, setup
from dst.train.config import run as config
from dst.train.data import npz
from dst.train.records import run_dir
from tests.training import assert_same, small, states_in

RANDOM = np.random.default_rng(0)
X = RANDOM.normal([1, -20, 7], [1, 5, 0], (60, 3)).astype(np.float32)
Y = np.arange(60) % 3


def _saved(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return str(folder / "a.npz")


def _load(path, kind=None, **settings):
    return npz.load(path, npz.Npz(**settings), kind)


def _all(split):
    return split.take(np.arange(len(split)))


def test_every_example_is_in_one_split_and_every_class_keeps_its_share(tmp_path):
    labels = np.repeat([0, 1, 2], [100, 50, 5])
    path = _saved(tmp_path, x=np.arange(155.0), y=labels)
    found = _load(path, test=0.1, normalise=False)
    parts = [_all(x) for x in (found.train, found.test)]
    assert [np.bincount(y).tolist() for _, y in parts] == [[90, 45, 4], [10, 5, 1]]
    assert sorted(np.concatenate([x[:, 0] for x, _ in parts])) == list(range(155))
    again, other = (_load(path, test=0.1, normalise=False, seed=i) for i in (0, 1))
    np.testing.assert_array_equal(_all(again.test)[0], parts[1][0])
    assert not np.array_equal(_all(other.test)[0], parts[1][0])


def test_inputs_are_normalised_by_the_training_split(tmp_path):
    found = _load(_saved(tmp_path, x=X, y=Y))
    assert (found.shape, found.classes, found.objective) == ((3,), 3, "classification")
    assert (len(found.train), len(found.test)) == (48, 12)
    inputs, labels = _all(found.train)
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std(0), [1, 1, 0], rtol=1e-4)
    raw = _all(found.test)[0] * found.identity["std"] + found.identity["mean"]
    known = {tuple(x) for x in X.round(3).tolist()}
    assert {tuple(x) for x in raw.astype(np.float32).round(3).tolist()} <= known


def test_splits_of_the_file_are_kept(tmp_path):
    path = _saved(tmp_path, x_train=X[:40], y_train=Y[:40], x_test=X[40:], y_test=Y[40:])
    found = _load(path, normalise=False)
    np.testing.assert_array_equal(_all(found.train)[0], X[:40])
    np.testing.assert_array_equal(_all(found.test)[1], Y[40:])
    with pytest.raises(ValueError, match="test examples of its own, got 0.2"):
        _load(path, test=0.2)


def test_images_stay_bytes_in_memory_and_come_out_with_a_channel(tmp_path):
    images = RANDOM.integers(0, 256, (60, 4, 5), np.uint8)
    found = _load(_saved(tmp_path, x=images, y=Y))
    assert found.shape == (4, 5, 1) and found.train.source.inputs.dtype == np.uint8
    mean, std = found.identity["mean"], found.identity["std"]
    inputs, _ = _all(found.train)
    assert inputs.shape == (48, 4, 5, 1) and inputs.dtype == np.float32
    raw = found.train.source.inputs / 255
    np.testing.assert_allclose([mean[0], std[0]], [raw.mean(), raw.std()], rtol=1e-9)
    np.testing.assert_allclose(inputs, (raw - mean) / std, rtol=1e-4, atol=1e-5)


def test_the_kind_of_labels_says_what_is_asked_of_the_network(tmp_path):
    several = (RANDOM.random((60, 4)) < 0.5).astype(np.int64)
    pairs = RANDOM.normal([100, 3], [10, 1], (60, 2))
    cases = {
        "text": (np.array(["dog", "cat"] * 30), "classification", 2),
        "bytes": (np.array([b"dog", b"cat"] * 30), "classification", 2),
        "booleans": (Y > 0, "classification", 2),
        "a column": (Y[:, None], "classification", 3),
        "numbers": (pairs[:, 0], "regression", 1),
        "pairs": (pairs, "regression", 2),
        "several": (several, "multi-label", 4),
    }
    for labels, objective, outputs in cases.values():
        found = _load(_saved(tmp_path, x=X, y=labels))
        assert (found.objective, found.classes) == (objective, outputs)
    assert _load(_saved(tmp_path, x=X, y=np.array(["dog", "cat"] * 30))).identity["classes"] == (
        "cat",
        "dog",
    )


def test_classes_are_numbered_in_their_order_whatever_they_are_called(tmp_path):
    path = _saved(tmp_path, x=np.arange(60.0), y=np.array([10, 9, -1] * 20))
    found = _load(path, normalise=False)
    assert found.identity["classes"] == ("-1", "9", "10")
    inputs, labels = _all(found.test)
    np.testing.assert_array_equal(labels, 2 - inputs[:, 0].astype(int) % 3)
    other = _load(path, normalise=False, classes=("10", "-1", "9"))
    np.testing.assert_array_equal(_all(other.test)[1], -inputs[:, 0].astype(int) % 3)


def test_targets_are_normalised_and_the_saved_config_has_their_units(tmp_path):
    targets = np.stack([X[:, 0] * 50 + 1000, X[:, 1]], 1)
    found = _load(_saved(tmp_path, x=X, y=targets))
    assert found.units == found.identity["target_std"]
    labels = _all(found.train)[1]
    assert labels.shape == (48, 2) and labels.dtype == np.float32
    np.testing.assert_allclose(labels.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(labels.std(0), 1, rtol=1e-4)
    plain = _load(_saved(tmp_path, x=X, y=targets), normalise=False)
    assert plain.units is None and _all(plain.train)[1].max() > 900


def test_an_objective_of_the_config_decides_what_labels_are(tmp_path):
    assert _load(_saved(tmp_path, x=X, y=Y), "number").classes == 1
    zeros = _saved(tmp_path, x=X, y=(RANDOM.random((60, 2)) < 0.5).astype(float))
    assert _load(zeros, "multi-label").objective == "multi-label"


OK = {"x": X, "y": Y}
HOLES = np.where(X == X[7, 1], np.inf, X)
SINGLE = np.where(np.arange(60) == 5, 9, Y)
# Input: arrays, settings, kind of labels. Expected: parts of the message.
BAD = {
    "no array": ({"x": X, "labels": Y}, {}, None, ["data.labels", "'y'", "['x', 'labels']"]),
    "near": ({"x": X, "yy": Y}, {}, None, ["Did you mean 'yy'?"]),
    "half a split": (
        {"x_train": X, "y_train": Y, "x_test": X},
        {},
        None,
        ["data.labels", "'y_test'"],
    ),
    "objects": ({"x": X, "y": np.array([{}] * 60)}, {}, None, ["'y'", "Python objects", "astype"]),
    "lengths": ({"x": X, "y": Y[:9]}, {}, None, ["60 inputs and 9 labels"]),
    "empty": ({"x": X[:0], "y": Y[:0]}, {}, None, ["0 inputs and 0 labels"]),
    "no numbers": ({"x": Y.astype(str), "y": Y}, {}, None, ["data.inputs", "must hold numbers"]),
    "not finite": (
        {"x": HOLES, "y": Y},
        {},
        None,
        ["inf in example 7"],
    ),
    "no label": ({"x": X, "y": np.where(Y == 2, np.nan, Y)}, {}, None, ["nan", "of example 2"]),
    "other shapes": (
        {"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y},
        {},
        None,
        ["must be alike", "[2]", "[3]"],
    ),
    "class in one": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y % 2},
        {},
        None,
        ["['2']", "in the training split and not in the test split"],
    ),
    "single": (
        {"x": X, "y": SINGLE},
        {},
        None,
        ["class '9'", "single"],
    ),
    "one class": ({"x": X, "y": Y * 0}, {}, None, ["at least two different ones, found ['0']"]),
    "not listed": (OK, {"classes": ("0", "1")}, None, ["data.classes", "['2']"]),
    "no zero or one": (
        {"x": X, "y": np.stack([Y, Y], 1)},
        {},
        None,
        ["must hold 0 or 1", "found 2 for '0' of example 2"],
    ),
    "text is no number": ({"x": X, "y": Y.astype(str)}, {}, "number", ["regression needs numbers"]),
    "floats are no class": ({"x": X, "y": X[:, 0]}, {}, "class", ["must be integers or text"]),
    "channels": (OK, {"mean": (0.0,), "std": (1.0,)}, None, ["must have 3 numbers", "got 1 and 1"]),
    "other data": (OK, {"sha256": "0" * 64}, None, ["data.sha256", "000000000000...", "Restore"]),
    "no regression": (OK, {"target_mean": (0.0,), "target_std": (1.0,)}, None, ["target_mean"]),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_file_what_was_expected_and_what_was_found(case, tmp_path):
    arrays, settings, kind, parts = BAD[case]
    path = _saved(tmp_path, **arrays)
    with pytest.raises(ValueError) as error:
        _load(path, kind, **settings)
    for part in parts:
        assert part in str(error.value)
    if case not in ("channels", "no regression", "text is no number"):
        assert path in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": 0.0}, r"test must be a fraction in \(0, 1\), got 0.0"),
        ({"test": 1.5}, "got 1.5"),
        ({"mean": (1.0,)}, "mean and std must both be given"),
        ({"target_std": (1.0,)}, "target_mean and target_std must both"),
        ({"mean": (1.0,), "std": (1.0,), "normalise": False}, "mean must be null"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        npz.Npz(**settings)


def test_what_is_no_archive_is_refused_without_running_it(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"not an archive", (b"PK\x03\x04" + bytes(40))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected named arrays, as np.savez writes them"):
            _load(str(path))
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(ValueError, match="found a single array"):
        _load(str(tmp_path / "a.npy"))
    whole = _saved(tmp_path, **OK)
    content = bytearray(path.read_bytes())
    content[200] ^= 255  # a damaged number
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        _load(whole)


SECTION = "data={name: 'npz:a.npz', batch_size: 8}"


def test_a_path_is_looked_for_beside_the_config_then_from_here(tmp_path, monkeypatch):
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir(), here.mkdir()
    monkeypatch.chdir(here)

    def name():
        return small(beside, SECTION).data.name

    assert name() == f"npz:{beside}/a.npz"  # in neither
    _saved(here, **OK)
    assert name() == f"npz:{here}/a.npz"
    _saved(beside, **OK)
    assert name() == f"npz:{beside}/a.npz"
    assert small(beside, f"data.name=npz:{here}/a.npz").data.name == f"npz:{here}/a.npz"


def test_a_file_that_is_missing_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small(tmp_path)
    assert cli.main(["train", "small.yaml", SECTION]) == 2
    message = capsys.readouterr().err.replace("\n", "")
    assert f"expected a file at {tmp_path}/a.npz, found none" in message
    assert [p.name for p in tmp_path.iterdir()] == ["small.yaml"]


TINY = (SECTION, "model.hidden=[4]", "method=static", "train={steps: 3, log_every: 1}")


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """A run on two targets, stopped after a step and resumed elsewhere; and one that was not."""
    folder = tmp_path_factory.mktemp("npz")
    _saved(folder, x=X, y=np.stack([X[:, 0] * 50 + 1000, X[:, 1]], 1))
    found = small(folder, *TINY, "train.keep_best=1", "optimizer.accumulate=2")
    loop.train(found, folder / "whole")
    loop.train(found, folder / "stopped", until=1)
    shutil.copytree(folder / "stopped", folder / "moved")
    return folder


def test_a_run_resumes_from_anywhere_and_has_its_statistics(regression, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop.resume(regression / "stopped")
    assert_same(states_in(regression / "stopped")[3], states_in(regression / "whole")[3])
    pinned = config.load(regression / "whole" / run_dir.CONFIG).data
    assert pinned.name == f"npz:{regression}/a.npz"
    first = _load(str(regression / "a.npz"))
    assert {k: getattr(pinned.value, k) for k in first.identity} == first.identity
    figures = json.loads((regression / "whole" / run_dir.SUMMARY).read_text())
    assert figures["rmse"] > 1 and "accuracy" not in figures  # in units of tens, not of ones


def test_a_run_resumes_where_its_data_moved(regression, tmp_path):
    run, moved = regression / "moved", f"npz:{shutil.copy(regression / 'a.npz', tmp_path)}"
    with pytest.raises(config.ConfigError, match="Say --changed"):
        loop.resume(run, [f"data.name={moved}"])
    loop.resume(run, [f"data.name={moved}"], changed=True)
    assert config.load(run / run_dir.CONFIG).data.name == moved
    assert_same(states_in(run)[3], states_in(regression / "whole")[3])


def test_a_run_on_other_data_is_refused_by_name(regression, tmp_path):
    saved = regression / "whole" / run_dir.CONFIG
    other = _saved(tmp_path, x=X + 1, y=np.stack([X[:, 0], X[:, 1]], 1))
    with pytest.raises(setup.SetupError, match="this run is of data with SHA-256"):
        setup.make(config.load(saved, [f"data.name=npz:{other}"]))


def test_a_network_gets_an_output_for_each_class(tmp_path):
    _saved(tmp_path, x=X, y=Y)
    made = setup.make(small(tmp_path, *TINY))
    assert made.begin().params["out"]["kernel"].shape == (4, 3)
    made = setup.make(small(tmp_path, *TINY, "objective=regression"))
    assert made.begin().params["out"]["kernel"].shape == (4, 1)
