"""Laws of data sets that Hugging Face's ``datasets`` saved: they are read as they were written."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dst.train import setup
from dst.train.config import run as config
from dst.train.data import examples, hf
from tests.training import small

N = 20
CLASSES = {"names": ["dog", "cat"], "_type": "ClassLabel"}
VECTORS = np.arange(2 * N, dtype=np.float32).reshape(N, 2)
LABELS = np.arange(N) % 2


def _png(i, shape=(4, 5, 3)):
    file = io.BytesIO()
    Image.fromarray(np.full(shape, i, np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def _saved(folder, columns, shards=1, **features):
    """What ``Dataset.save_to_disk`` of datasets 5.2 writes, as far as it is data."""
    folder.mkdir(parents=True)
    table = pa.table(columns)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for rows, name in zip(np.array_split(np.arange(len(table)), shards), names, strict=True):
        part = table.slice(rows[0], len(rows)) if len(rows) else table.slice(0, 0)
        with pa.OSFile(str(folder / name), "wb") as file:
            with pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(part)
    state = {"_data_files": [{"filename": x} for x in names], "_fingerprint": "0a8c"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def _splits(folder, **splits):
    for name, rows in splits.items():
        _saved(folder / name, {"v": VECTORS[rows].tolist(), "label": LABELS[rows]}, label=CLASSES)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def _load(folder, kind=None, **settings):
    return hf.load(str(folder), hf.Hf(**settings), kind)


def _all(dataset):
    parts = [x.take(np.arange(len(x))) for x in (dataset.train, dataset.test)]
    return [np.concatenate(x) for x in zip(*parts, strict=True)]


@pytest.fixture
def pictures(tmp_path):
    """Images and two classes, in three files."""
    columns = {"image": [_png(i) for i in range(N)], "label": LABELS}
    return _saved(tmp_path / "data", columns, 3, image={"_type": "Image"}, label=CLASSES)


def test_images_and_the_names_of_classes_come_out_as_they_went_in(pictures, monkeypatch):
    found = _load(pictures)
    assert (found.shape, found.classes, found.threads) == ((4, 5, 3), 2, 0)
    assert found.identity["classes"] == ("dog", "cat")  # in the order of the data, not sorted
    raw = [x.source.read(np.arange(len(x))) for x in (found.train, found.test)]
    values = np.concatenate([x[:, 0, 0, 0] for x, _ in raw])
    assert sorted(values) == list(range(N))
    np.testing.assert_array_equal(np.concatenate([y for _, y in raw]), values % 2)
    monkeypatch.setattr(examples, "_IN_MEMORY", 100)
    read = _load(pictures)
    assert read.threads > 0
    np.testing.assert_allclose(_all(read)[0], _all(found)[0], rtol=1e-5, atol=1e-6)


def test_images_may_have_quantities_as_labels(tmp_path):
    columns = {"image": [_png(i) for i in range(N)], "age": np.arange(N) / 2}
    folder = _saved(tmp_path / "data", columns, image={"_type": "Image"})
    found = _load(folder, labels="age", size=(2, 2))
    assert (found.objective, found.classes, found.shape) == ("regression", 1, (2, 2, 3))
    assert found.units == found.identity["target_std"]


def test_classes_are_numbers_where_the_objective_needs_numbers(tmp_path):
    columns = {"v": VECTORS.tolist(), "label": LABELS}
    found = _load(_saved(tmp_path / "data", columns, label=CLASSES), "number", inputs="v")
    assert (found.objective, found.classes) == ("regression", 1)


@pytest.mark.parametrize("typed", [False, True])
def test_lists_of_numbers_are_arrays(typed, tmp_path):
    columns = {"v": VECTORS.reshape(N, 1, 2).tolist(), "label": LABELS}
    table = pa.table(columns)
    if typed:  # as `datasets` writes them where the length is known
        kind = pa.list_(pa.list_(pa.float32(), 2), 1)
        table = table.set_column(0, "v", table["v"].cast(kind))
    folder = _saved(tmp_path / "data", dict(zip(table.column_names, table.columns, strict=True)), 2)
    found = _load(folder, inputs="v", normalise=False)
    assert found.shape == (1, 2)
    inputs, labels = _all(found)
    order = np.argsort(inputs[:, 0, 0])
    np.testing.assert_array_equal(inputs[order, 0], VECTORS)
    np.testing.assert_array_equal(labels[order], LABELS)


def test_columns_of_numbers_follow_each_other(tmp_path):
    columns = {"v": VECTORS.tolist(), "n": np.arange(N), "label": LABELS}
    found = _load(_saved(tmp_path / "data", columns), inputs=("n", "v"), normalise=False)
    inputs, _ = _all(found)
    np.testing.assert_array_equal(
        inputs[inputs[:, 0].argsort()], np.hstack([np.arange(N)[:, None], VECTORS])
    )


def test_splits_are_kept_and_may_be_named(tmp_path):
    half = np.arange(N // 2)
    splits = {"train": half, "validation": half[:4], "test": half[:6]}
    folder = _splits(tmp_path / "data", **splits)
    assert [len(_load(folder, inputs="v").test), len(_load(folder, inputs="v").train)] == [6, 10]
    assert len(_load(folder, inputs="v", held_out="validation").test) == 4
    with pytest.raises(ValueError, match=r"data.held_out must be one of .*'validation'"):
        _load(folder, inputs="v", held_out="validate")
    with pytest.raises(ValueError, match="test examples of its own, got 0.5"):
        _load(folder, inputs="v", test=0.5)
    alone = _splits(tmp_path / "alone", train=half)
    assert len(_load(alone, inputs="v").test) == 2
    with pytest.raises(ValueError, match="expected the split 'train' in .*other, found"):
        _load(_splits(tmp_path / "other", all=half), inputs="v")


OK = {"v": VECTORS.tolist(), "label": LABELS}
RAGGED = [[1.0]] * 19 + [[1.0, 2.0]]
HOLE = [*VECTORS.tolist()[:7], [0.0, None], *VECTORS.tolist()[8:]]
# Input: columns, settings. Expected: parts of the message.
BAD = {
    "no input": (OK, {}, ["data.inputs: expected the column 'image'", "['v', 'label']"]),
    "no labels": (OK, {"inputs": "v", "labels": "lable"}, ["data.labels", "Did you mean 'label'"]),
    "text": ({**OK, "v": ["a"] * N}, {"inputs": "v"}, ["'v'", "holds text", "by text:"]),
    "ragged": ({**OK, "v": RAGGED}, {"inputs": "v"}, ["one length, found [1, 2]"]),
    "hole": ({**OK, "v": HOLE}, {"inputs": "v"}, ["'v'", "no value in row 8"]),
    "no list": (
        {**OK, "v": [*VECTORS.tolist()[:-1], None]},
        {"inputs": "v"},
        ["'v'", "no value in row 20"],
    ),
    "no label": ({**OK, "label": LABELS - 1}, {"inputs": "v"}, ["in 0 to 1, found -1 in row 1"]),
    "size": (OK, {"inputs": "v", "size": (2, 2)}, ["data.size is for images"]),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_folder_the_column_and_the_row(case, tmp_path):
    columns, settings, parts = BAD[case]
    folder = _saved(tmp_path / "data", columns, label=CLASSES)
    with pytest.raises(ValueError) as error:
        _load(folder, **settings)
    for part in [*parts, str(folder)]:
        assert part in str(error.value)


def test_what_is_not_whole_is_named(tmp_path, pictures):
    with pytest.raises(ValueError, match=f"that save_to_disk wrote .* at {tmp_path}, found none"):
        _load(tmp_path)
    state = json.loads((pictures / "state.json").read_text())
    (pictures / "state.json").write_text(json.dumps(state | {"_indices_files": ["x"]}))
    with pytest.raises(ValueError, match="a selection of a larger table"):
        _load(pictures)
    (pictures / "state.json").write_text("{")
    with pytest.raises(ValueError, match="state.json cannot be read"):
        _load(pictures)
    (pictures / "state.json").write_text(json.dumps(state))
    first = pictures / "data-00000-of-00003.arrow"
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data-00000-of-00003.arrow cannot be read"):
        _load(pictures)
    first.unlink()
    with pytest.raises(ValueError, match=r"expected a file at .*data-00000-of-00003.arrow"):
        _load(pictures)


def test_an_image_that_cannot_be_read_is_named_by_its_row(tmp_path):
    images = [_png(i) for i in range(N)]
    for bad in ({"bytes": b"no image", "path": None}, {"bytes": None, "path": "/none.png"}):
        images[6] = bad
        folder = tmp_path / str(bad["path"]).strip("/")
        _saved(folder, {"image": images, "label": LABELS}, image={"_type": "Image"})
        with pytest.raises(ValueError, match="row 7 of 'image' in .* is no image that Pillow can"):
            _load(folder)


def test_a_run_pins_what_was_saved(pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    made = setup.make(small(pictures.parent, "data={name: 'hf:data', batch_size: 4}"))
    (pictures.parent / "saved.yaml").write_text(config.dump(made.config))
    saved = config.load(pictures.parent / "saved.yaml")
    assert saved == made.config and saved.data.name == f"hf:{pictures}"
    state = (pictures / "state.json").read_text()
    (pictures / "state.json").write_text(state.replace("0a8c", "0a8d"))
    with pytest.raises(setup.SetupError, match="this run is of data with SHA-256"):
        setup.make(saved)
