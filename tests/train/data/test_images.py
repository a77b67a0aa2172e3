"""Laws of folders of images: what is in the files is trained on, or an error names the file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from dst import cli
from dst.train import setup
from dst.train.config import run as config
from dst.train.data import examples, images, stream
from dst.train.records import run_dir
from tests.training import small

SHAPE = (6, 5, 3)


def _image(i, shape=SHAPE):
    return np.random.default_rng(i).integers(0, 256, shape, np.uint8)


def _write(folder, classes=("rose", "aster"), each=10, shape=SHAPE, first=0, ending="png"):
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            image = _image(first + 100 * c + i, shape)
            Image.fromarray(image).save(folder / name / f"{i}.{ending}")
    return folder


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """Ten images each of two classes."""
    return _write(tmp_path_factory.mktemp("images") / "flowers")


@pytest.fixture
def copied(flowers, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(flowers, tmp_path / "flowers")


def _load(folder, **settings):
    return images.load(str(folder), images.Images(**settings))


def _raw(split):
    return split.source.read(np.arange(len(split)))


def test_every_file_is_in_one_split_with_the_class_of_its_folder(flowers):
    found = _load(flowers)
    assert (found.shape, found.classes, found.threads) == (SHAPE, 2, 0)
    assert found.identity["classes"] == ("aster", "rose")
    parts = [_raw(x) for x in (found.train, found.test)]
    assert [np.bincount(y).tolist() for _, y in parts] == [[8, 8], [2, 2]]
    known = {_image(i).tobytes(): 1 - i // 100 for i in (*range(10), *range(100, 110))}
    got = {x.tobytes(): y for xs, ys in parts for x, y in zip(xs, ys, strict=True)}
    assert got == known


def test_images_are_normalised_by_the_training_split(flowers):
    found = _load(flowers)
    raw = np.stack(_raw(found.train)[0]) / 255
    np.testing.assert_allclose(found.identity["mean"], raw.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.identity["std"], raw.std((0, 1, 2)), rtol=1e-12)
    inputs, labels = found.train.take(np.arange(16))
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
    expected = (raw - found.identity["mean"]) / found.identity["std"]
    np.testing.assert_allclose(inputs, expected, rtol=1e-4, atol=1e-5)
    plain = _load(flowers, normalise=False)
    np.testing.assert_allclose(plain.train.take(np.arange(16))[0], raw, rtol=1e-5)


def test_what_is_too_large_for_memory_gives_the_same_batches(flowers, monkeypatch):
    held = _load(flowers, augment="cifar")
    monkeypatch.setattr(examples, "_IN_MEMORY", 100)
    read = _load(flowers, augment="cifar")
    assert (held.threads, read.threads > 0) == (0, True)
    np.testing.assert_allclose(read.identity.pop("mean"), held.identity.pop("mean"), rtol=1e-12)
    np.testing.assert_allclose(read.identity.pop("std"), held.identity.pop("std"), rtol=1e-9)
    assert read.identity == held.identity
    for a, b in zip(
        *(stream.Source(x, 1, 8, np.arange(8)).batch(3) for x in (held, read)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    ((inputs, _),) = stream.testing(read)
    np.testing.assert_allclose(inputs, held.test.take(np.arange(4))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["test", "val"])
def test_folders_of_splits_are_the_splits(name, tmp_path):
    _write(tmp_path / "train")
    _write(tmp_path / name, each=3, first=50)
    found = _load(tmp_path)
    assert (len(found.train), len(found.test)) == (20, 6)
    np.testing.assert_array_equal(_raw(found.test)[0][0], _image(150))  # aster/0.png
    with pytest.raises(ValueError, match="test examples of its own, got 0.1"):
        _load(tmp_path, test=0.1)
    _write(tmp_path / "train", ("tulip",))
    with pytest.raises(ValueError, match=r"\['tulip'\] of .* occurs in the training split and not"):
        _load(tmp_path)


def test_grey_images_have_one_channel_unless_one_has_colours(tmp_path):
    _write(tmp_path, shape=SHAPE[:2])
    found = _load(tmp_path)
    assert found.shape == (6, 5, 1) and found.identity["channels"] == 1
    assert _load(tmp_path, channels=3).shape == SHAPE
    Image.fromarray(_image(1, (6, 5, 4))).save(tmp_path / "rose" / "0.png")  # with transparency
    assert _load(tmp_path).shape == SHAPE
    assert _load(tmp_path, channels=1).shape == (6, 5, 1)


def test_images_of_other_sizes_are_resized_or_refused_by_name(copied):
    odd = copied / "rose" / "3.png"
    Image.fromarray(_image(7, (9, 9, 3))).save(odd)
    with pytest.raises(ValueError, match=r"data.size must be .* has \[6, 5\] and .*rose/3.png has"):
        _load(copied)
    found = _load(copied, size=(4, 8))
    assert found.shape == (4, 8, 3)
    expected = Image.open(odd).resize((8, 4), Image.Resampling.BILINEAR)
    pictures = [x.tobytes() for split in (found.train, found.test) for x in _raw(split)[0]]
    assert np.asarray(expected).tobytes() in pictures
    cut = _load(copied, augment="imagenet")
    assert cut.shape == (224, 224, 3) and cut.identity["mean"] == (0.485, 0.456, 0.406)
    assert cut.test.take(np.arange(2))[0].shape == (2, 224, 224, 3)


def test_a_file_that_is_no_image_is_named(copied, monkeypatch):
    (copied / "rose" / ".hidden.png").write_text("left out")
    (copied / "rose" / "notes.txt").write_text("left out")
    assert len(_load(copied).train) == 16
    broken = copied / "aster" / "4.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])  # the header is there, the rest is not
    for most in (2**30, 100):  # bytes in memory
        monkeypatch.setattr(examples, "_IN_MEMORY", most)
        with pytest.raises(ValueError, match=r"aster/4.png is no image that Pillow can read"):
            _load(copied)
    broken.write_text("no image")
    with pytest.raises(ValueError, match=r"aster/4.png is no image that Pillow can read"):
        _load(copied)
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(broken)
    with pytest.raises(ValueError, match=r"8 bits per channel, .*aster/4.png has mode 'I;16'"):
        _load(copied)


def test_folders_without_images_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"expected a folder of images at {tmp_path}/none"):
        _load(tmp_path / "none")
    with pytest.raises(ValueError, match=f"a folder of images for each class in {tmp_path}, found"):
        _load(tmp_path)
    _write(tmp_path)
    (tmp_path / "tulip").mkdir()
    with pytest.raises(ValueError, match=f"images of class 'tulip' in {tmp_path}/tulip, found no"):
        _load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=f"'test' or 'val' beside {tmp_path}/train"):
        _load(tmp_path)


def test_a_class_of_one_image_is_refused(copied):
    (copied / "tulip").mkdir()
    shutil.copy(copied / "rose" / "0.png", copied / "tulip")
    with pytest.raises(ValueError, match="class 'tulip' .* has a single example"):
        _load(copied)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 4)}, "a height and a width >= 1"),
        ({"size": (4, 4), "augment": "imagenet"}, "needs size null, and 3 channels"),
        ({"channels": 1, "augment": "imagenet"}, "needs size null, and 3 channels"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        images.Images(**settings)


def test_a_run_pins_its_files_and_leaves_nothing_behind_where_one_is_broken(
    copied, monkeypatch, capsys
):
    where = copied.parent
    monkeypatch.chdir(where)
    tiny = ["data={name: 'images:flowers', batch_size: 4}", "model.hidden=[2]", "method=static"]
    small(where)
    assert cli.main(["train", "small.yaml", *tiny, "train={steps: 3}", "--dir", "run"]) == 0
    saved = config.load(where / "run" / run_dir.CONFIG)
    assert saved.data.name == f"images:{copied}" and saved.data.value.classes == ("aster", "rose")
    assert len(saved.data.value.mean) == 3
    (copied / "rose" / "0.png").rename(copied / "rose" / "x.png")
    with pytest.raises(setup.SetupError, match="this run is of data with SHA-256"):
        setup.make(saved)
    (copied / "rose" / "x.png").write_text("no image")
    capsys.readouterr()
    assert cli.main(["train", "small.yaml", *tiny, "--dir", "other"]) == 2
    assert "rose/x.png is no image" in capsys.readouterr().err.replace("\n", "")
    assert not (where / "other").exists()
