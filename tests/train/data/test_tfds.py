"""Laws of TFDS data sets: what went in comes out, or an error says what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import islice

import jax
import numpy as np
import pytest

from dst import cli
from dst.train import data, loop, setup
from dst.train.config import json_schema, schema
from dst.train.config import run as config
from dst.train.data import augment, stream, tfds
from dst.train.records import run_dir
from tests import prepared
from tests.training import CONFIGS, ROOT, assert_same, batch, small, states_in, write_small


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The directory of three prepared data sets."""
    where = tmp_path_factory.mktemp("tfds")
    for kind in ("pictures", "ragged", "tensors"):
        prepared.prepare(where, f"toy_{kind}", kind)
    return where


def _settings(home, **changes):
    return tfds.Tfds(**{"batch_size": 8, "directory": str(home), **changes})


def _by_content(inputs, labels):
    """Examples in an order that does not depend on how TFDS shuffled them into its files."""
    rows = [(x.tobytes(), int(y)) for x, y in zip(inputs, labels, strict=True)]
    return sorted(rows)


def test_images_come_out_as_they_went_in(home):
    assert len(list(home.glob("toy_pictures/1.2.0/*train.array_record*"))) == prepared.SHARDS
    found = tfds.load("toy_pictures", _settings(home))
    assert (found.shape, found.classes, found.threads) == ((8, 8, 3), 4, 0)
    for split, examples in (("train", found.train), ("test", found.test)):
        images, labels = prepared.pictures(split)
        assert _by_content(*examples.source.read(np.arange(len(examples)))) == _by_content(
            images, labels
        )


def test_images_are_normalised_by_the_training_split(home):
    found = tfds.load("toy_pictures", _settings(home))
    pixels = prepared.pictures("train")[0] / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    np.testing.assert_allclose(found.identity["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(found.identity["std"], std, rtol=1e-12)
    inputs, labels = found.test.take(np.arange(20))
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
    raw, _ = found.test.source.read(np.arange(20))
    np.testing.assert_allclose(inputs, (raw / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    given = tfds.load("toy_pictures", _settings(home, mean=(0.0,) * 3, std=(1.0,) * 3))
    np.testing.assert_allclose(given.test.take(np.arange(20))[0], raw / 255, rtol=1e-5)


def test_tensors_come_out_as_they_went_in(home):
    found = tfds.load("toy_tensors", _settings(home))
    assert (found.shape, found.classes) == ((3,), 4)
    vectors, labels = prepared.tensors("train")
    assert _by_content(*found.train.source.read(np.arange(50))) == _by_content(vectors, labels)
    inputs, _ = found.train.take(np.arange(50))
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std(0), [1, 1, 0], rtol=1e-4)


def test_images_of_many_sizes_are_read_from_disk_and_cut(home):
    found = tfds.load("toy_ragged", _settings(home, augment="imagenet"))
    assert (found.shape, found.threads > 0) == ((224, 224, 3), True)
    images, _ = prepared.ragged("test")
    images = [x if x.ndim == 3 else np.repeat(x[..., None], 3, 2) for x in images]
    raw, labels = found.test.source.read(np.arange(len(images)))
    assert _by_content(raw, labels) == _by_content(images, np.arange(12) % 4)
    (inputs, _), *more = stream.testing(found)
    assert not more and inputs.shape == (12, 224, 224, 3)
    boxes = augment.centre_boxes(np.array([x.shape[:2] for x in raw]))
    pixels = augment.resized(raw, boxes) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(inputs, expected, rtol=1e-4, atol=1e-5)


def test_parts_of_a_split_are_disjoint_and_complete(home):
    found = tfds.load("toy_pictures", _settings(home, train="train[:90%]", test="train[90%:]"))
    assert (len(found.train), len(found.test)) == (45, 5)
    parts = [_by_content(*x.source.read(np.arange(len(x)))) for x in (found.train, found.test)]
    assert sorted(parts[0] + parts[1]) == _by_content(*prepared.pictures("train"))


@pytest.mark.parametrize("kind", ["pictures", "ragged"])
def test_every_epoch_shows_every_example_once(kind, home):
    how = "imagenet" if kind == "ragged" else "cifar"
    found = tfds.load(f"toy_{kind}", _settings(home, augment=how))
    n = len(found.train)
    source = stream.Source(found, 0, 5, np.arange(5))
    labels = np.concatenate([source.batch(count)[1] for count in range(n)])
    everything = found.train.source.read(np.arange(n))[1]
    for epoch in labels.reshape(5, n):
        np.testing.assert_array_equal(np.sort(epoch), np.sort(everything))
    # Augmented by the count alone: again the same, and at another count differently.
    np.testing.assert_array_equal(source.batch(2)[0], source.batch(2)[0])
    order = stream.indices(n, 5, 0, 2)
    assert not np.array_equal(source.batch(2)[0], found.train.take(order)[0])


def test_what_is_too_large_for_memory_gives_the_same_batches(home, monkeypatch):
    settings = _settings(home, augment="cifar", mean=(0.5,) * 3, std=(0.2,) * 3)
    held = tfds.load("toy_pictures", settings)
    monkeypatch.setattr("dst.train.data.examples._IN_MEMORY", 1000)
    read = tfds.load("toy_pictures", settings)
    assert (held.threads, read.threads > 0) == (0, True)
    for count in (0, 9):
        for a, b in zip(
            *(stream.Source(x, 1, 8, np.arange(8)).batch(count) for x in (held, read)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"data.mean and data.std must be given for tfds:toy_pic"):
        tfds.load("toy_pictures", _settings(home))


# Input: name and settings. Expected: parts of the message.
BAD = {
    "not prepared": ("mnist", {}, ["'mnist'", "array_record", "there is none", "builder('mnist'"]),
    "another version": (
        "toy_pictures",
        {"version": "9.0.0"},
        ["'toy_pictures:9.0.0'", "download_and_prepare(file_format='array_record')"],
    ),
    "no such split": ("toy_pictures", {"train": "trian"}, ["data.train", "'trian'", "'test'"]),
    "sizes": ("toy_ragged", {}, ["data.augment must be imagenet", "differ in size"]),
    "tensors are no images": ("toy_tensors", {"augment": "cifar"}, ["data.augment must be none"]),
    "channels": (
        "toy_pictures",
        {"mean": (0.5,), "std": (1.0,)},
        ["data.mean and data.std must have 3 numbers", "got 1 and 1"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_say_what_was_expected_what_was_found_and_what_to_do(case, home):
    name, changes, parts = BAD[case]
    with pytest.raises(ValueError) as error:
        tfds.load(name, _settings(home, **changes))
    for part in parts:
        assert part in str(error.value)
    if case == "not prepared":
        assert str(home) in str(error.value)


def test_files_without_random_access_are_refused_by_name(home, tmp_path):
    shutil.copytree(home / "toy_tensors", tmp_path / "toy_tensors")
    info = tmp_path / "toy_tensors" / "1.2.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"), encoding="utf-8")
    with pytest.raises(ValueError, match="are tfrecord, which cannot be read at random places"):
        tfds.load("toy_tensors", _settings(tmp_path))


def test_a_data_set_without_label_is_refused(tmp_path):
    prepared.prepare(tmp_path, "toy_pairs", "tensors", label="vector")
    with pytest.raises(ValueError, match="must have an input and a class label"):
        tfds.load("toy_pairs", _settings(tmp_path))


def test_versions_and_directories_name_one_data_set(home, tmp_path):
    shutil.copytree(home, tmp_path / "home")
    prepared.prepare(tmp_path / "home", "toy_tensors", "tensors", version="1.10.0")
    home = tmp_path / "home"

    def version(name="toy_tensors", **changes):
        return tfds.load(name, _settings(home, **changes)).identity["version"]

    assert version() == "1.10.0"  # the newest, not the last of the alphabet
    assert version(version="1.2.0") == version("toy_tensors:1.2.0") == "1.2.0"
    own = home / "toy_tensors" / "1.2.0"
    assert version(directory=str(own)) == version(directory=str(own), version="1.2.0") == "1.2.0"
    with pytest.raises(ValueError, match=r"expected the data set toy_tensors:1.10.0 in .*1\.2\.0"):
        version(directory=str(own), version="1.10.0")
    with pytest.raises(ValueError, match="expected the data set mnist in .* found toy_tensors"):
        version("mnist", directory=str(own))


def _overrides(home):
    section = {"name": "tfds:toy_pictures", "batch_size": 8, "directory": str(home)}
    # Without topology steps, that there is one program less to compile.
    method = ["method={'name': 'static'}", "optimizer.learning_rate=0.01"]
    return [f"data={section}", "data.augment=cifar", *method]


@pytest.mark.parametrize("override", ["data=tfds:mnist", "data.name=tfds:mnist"])
def test_an_override_names_a_data_set_and_takes_the_batch_size_along(override, tmp_path):
    found = small(tmp_path, override, "data.train='train[:90%]'").data
    assert found == schema.Section("tfds:mnist", tfds.Tfds(batch_size=64, train="train[:90%]"))


def test_the_schema_knows_names_by_their_pattern():
    arms = json_schema.json_schema(config.Config)["properties"]["data"]["anyOf"]
    assert {"enum": [name for name in data.REGISTRY if "*" not in name]} in arms
    assert {"type": "string", "pattern": "^tfds:"} in arms
    (arm,) = [x for x in arms if "directory" in x.get("properties", {})]
    assert arm["properties"]["name"] == {"type": "string", "pattern": "^tfds:"}
    assert arm["properties"]["augment"]["enum"] == ["none", "cifar", "imagenet"]


def test_a_name_of_no_data_set_is_refused(tmp_path):
    with pytest.raises(config.ConfigError, match=r"data.name must be one of .*'tfds:\*'"):
        small(tmp_path, "data=tfd:mnist")


def test_a_data_set_that_is_not_there_leaves_nothing_behind(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)
    where = f"data={{'name': 'tfds:mnist', 'directory': {str(home)!r}}}"
    assert cli.main(["train", "small.yaml", where]) == 2
    assert "To prepare it once" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["small.yaml"]


def test_a_run_resumes_bit_for_bit_from_its_saved_config(home, tmp_path):
    found = small(tmp_path, *_overrides(home))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    loop.train(found, whole)
    loop.train(found, stopped, until=13)  # in mid-epoch
    pinned = config.load(stopped / run_dir.CONFIG).data.value
    assert pinned.version == "1.2.0" and len(pinned.mean) == 3
    loop.resume(stopped)
    assert_same(states_in(stopped)[40], states_in(whole)[40])
    figures = json.loads((whole / run_dir.SUMMARY).read_text())
    assert figures["accuracy"] > 0.4  # four classes


def test_images_on_disk_train_and_are_evaluated(home, tmp_path):
    section = {"name": "tfds:toy_ragged", "batch_size": 4, "augment": "imagenet"}
    section["directory"] = str(home)
    made = setup.make(small(tmp_path, f"data={section}", "model.hidden=[2]"))
    state = made.begin()
    batches = made.batches(0)
    for inputs, labels in islice(batches, 2):
        assert inputs.shape == (1, 4, 224, 224, 3)
        state, metrics = made.step(state, inputs, labels, topology=False)
    batches.close()
    assert np.isfinite(metrics["loss"])
    first, again = made.evaluate(state), made.evaluate(state)
    assert first == again and np.isfinite(first["loss"])
    sizes = [x.shape for x in jax.tree.leaves(state.params)]
    assert (224 * 224 * 3, 2) in sizes


def test_tensorflow_is_never_imported(home, tmp_path):
    program = f"""
import sys
import numpy as np
from dst.train import config
from dst.train.data import load, stream

overrides = {_overrides(home)!r}
found = load(config.load({str(write_small(tmp_path))!r}, overrides).data)
next(stream.testing(found))
stream.Source(found, 0, 8, np.arange(8)).batch(0)
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


PREPARED = [p for p in CONFIGS if "tfds:" in p.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """Small data sets under the names, and with the shapes and classes, of the real ones."""
    where = tmp_path_factory.mktemp("standard")
    prepared.prepare(where, "mnist", shape=(28, 28, 1), classes=10)
    prepared.prepare(where, "cifar10", shape=(32, 32, 3), classes=10)
    prepared.prepare(where, "imagenet2012", "ragged", classes=1000)
    return where


def _case(path):
    """Every network once in `make test`, where all configs are read; the others take minutes."""
    marks = () if path.stem.endswith("rigl") else pytest.mark.evidence
    return pytest.param(path, id=f"{path.parent.name}-{path.stem}", marks=marks)


def test_configs_are_named_after_their_files_and_test_on_other_data():
    for path in PREPARED:
        found = config.load(path)
        assert found.data.value.train != found.data.value.test
        assert found.name.replace("-", "/", 1) == str(path.relative_to(ROOT / "configs"))[:-5]


@pytest.mark.parametrize("path", [_case(path) for path in PREPARED])
def test_every_config_can_be_set_up(path, standard):
    found = config.load(path)
    where = [f"data.directory={standard}", "data.batch_size=4", "mesh.data=1"]
    made = setup.make(config.load(path, where))
    assert bool(made.plan.sparse) == (found.method.name != "dense")
    (inputs, labels) = batch(made, 0)
    assert inputs.shape[:2] == labels.shape == (1, 4)
