"""Laws of tables: the values of a file are trained on, or an error names column and row."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv as arrow_csv
from pyarrow import parquet as arrow_parquet

from dst import cli
from dst.train import data, setup
from dst.train.config import run as config
from dst.train.config.run import DATA
from dst.train.records import run_dir
from tests.training import ROOT, small

N = 40
RANDOM = np.random.default_rng(0)
HOUSES = {
    "area": RANDOM.uniform(30, 200, N).round(2),
    "rooms": RANDOM.integers(1, 7, N),
    "garden": RANDOM.random(N) < 0.5,
    "town": np.array(["ulm", "bonn", "jena", "kiel"])[np.arange(N) % 4],
    "price": RANDOM.uniform(1e5, 9e5, N).round(2),
    "kind": np.array(["flat", "house"])[np.arange(N) % 2],
}
NUMBERS = ("area", "rooms", "garden")
KINDS = ("csv", "parquet")


def _write(folder, kind, table):
    path = folder / f"a.{kind}"
    table = pa.table(table) if isinstance(table, dict) else table
    (arrow_csv.write_csv if kind == "csv" else arrow_parquet.write_table)(table, path)
    return str(path)


def _load(path, of=None, **settings):
    kind = path.rpartition(".")[2]
    section = DATA.read({"name": f"{kind}:{path}", "batch_size": 4, **settings}, "data")
    return data.load(section, of)


def _all(dataset):
    parts = [x.take(np.arange(len(x))) for x in (dataset.train, dataset.test)]
    return [np.concatenate(x) for x in zip(*parts, strict=True)]


def _sorted(*columns):
    return sorted(zip(*(np.asarray(x, np.float32).tolist() for x in columns), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_in_one_split_as_it_is_in_the_file(kind, tmp_path):
    path = _write(tmp_path, kind, HOUSES)
    found = _load(path, labels="price", inputs=list(NUMBERS), normalise=False)
    assert (found.shape, found.classes, found.objective) == ((3,), 1, "regression")
    assert (len(found.train), len(found.test)) == (32, 8)
    inputs, labels = _all(found)
    assert (inputs.dtype, labels.dtype) == (np.float32, np.float32)
    expected = _sorted(*(HOUSES[x] for x in NUMBERS), HOUSES["price"])
    assert _sorted(*inputs.T, labels[:, 0]) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_targets_are_normalised_by_the_training_split(kind, tmp_path):
    path = _write(tmp_path, kind, HOUSES)
    found = _load(path, labels="price", inputs=list(NUMBERS))
    inputs, labels = found.train.take(np.arange(32))
    for x in (inputs, labels):
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(0), 1, rtol=1e-4)
    assert found.units == found.identity["target_std"] and 1e5 < found.units[0] < 5e5


@pytest.mark.parametrize("kind", KINDS)
def test_categories_are_one_hot_in_sorted_order_and_not_normalised(kind, tmp_path):
    path = _write(tmp_path, kind, _with(number=np.arange(N)))
    found = _load(path, labels="kind", inputs=["town", "number"], categorical=["town"])
    assert (found.shape, found.identity["classes"]) == ((5,), ("flat", "house"))
    assert found.identity["mean"][:4] == (0,) * 4 and found.identity["std"][:4] == (1,) * 4
    inputs, labels = _all(found)
    number = inputs[:, 4] * found.identity["std"][4] + found.identity["mean"][4]
    towns = np.array(["bonn", "jena", "kiel", "ulm"])[inputs[:, :4].argmax(1)]
    assert (np.sort(inputs[:, :4], 1) == [0, 0, 0, 1]).all()
    assert (towns == HOUSES["town"][number.round().astype(int)]).all()
    assert np.bincount(labels).tolist() == [20, 20]


def test_several_columns_of_labels_are_several_classes_or_several_targets(tmp_path):
    table = {"x": HOUSES["area"], "a": np.arange(N) % 2, "b": np.arange(N) % 3 > 0}
    path = _write(tmp_path, "csv", table)
    found = _load(path, labels=["a", "b"], normalise=False)
    assert (found.objective, found.classes) == ("multi-label", 2)
    inputs, labels = _all(found)
    assert _sorted(inputs[:, 0], *labels.T) == _sorted(*table.values())
    found = _load(_write(tmp_path, "csv", HOUSES), labels=["area", "price"], inputs=["rooms"])
    assert (found.objective, found.classes) == ("regression", 2)


def test_an_objective_of_the_config_decides_what_a_column_is(tmp_path):
    path = _write(tmp_path, "csv", HOUSES)
    assert _load(path, labels="rooms", inputs=["area"]).objective == "classification"
    assert _load(path, "number", labels="rooms", inputs=["area"]).objective == "regression"


def test_a_file_may_have_another_delimiter_and_be_compressed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x;y\n" + "".join(f"{i};{i % 2}\n" for i in range(10)))
    assert _load(str(path), labels="y", delimiter=";").shape == (1,)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    section = {"name": f"csv:{path}.gz", "labels": "y", "delimiter": ";", "batch_size": 4}
    assert len(data.load(DATA.read(section, "data")).test) == 2


def test_dictionaries_and_decimals_of_parquet_are_their_values(tmp_path):
    table = pa.table(
        {
            "x": pa.array(list(map(str, range(N)))).cast(pa.float64()).cast(pa.decimal128(9, 2)),
            "y": pa.array(HOUSES["kind"]).dictionary_encode(),
        }
    )
    found = _load(_write(tmp_path, "parquet", table), labels="y", normalise=False)
    inputs, labels = _all(found)
    assert _sorted(inputs[:, 0], labels) == [(i, i % 2) for i in range(N)]


def _with(**columns):
    return {**HOUSES, **columns}


def _hole(values, row):
    return pa.array([None if i == row else x for i, x in enumerate(values.tolist())])


# Input: table, settings. Expected: parts of the message.
BAD = {
    "no column": (HOUSES, {"labels": "prize"}, ["data.labels", "'prize'", "Did you mean 'price'?"]),
    "no input": (HOUSES, {"labels": "price", "inputs": ["size"]}, ["data.inputs", "'size'"]),
    "no category": (
        HOUSES,
        {"labels": "price", "inputs": ["area"], "categorical": ["town"]},
        ["data.categorical", "'town'", "found ['area']"],
    ),
    "text": (HOUSES, {"labels": "price"}, ["'town'", "'ulm' in row 1", "data.categorical=[town]"]),
    "missing": (
        _with(rooms=_hole(HOUSES["rooms"], 3)),
        {"labels": "kind", "categorical": ["town"]},
        ["'rooms'", "no value in row 4"],
    ),
    "missing text": (
        _with(kind=_hole(HOUSES["kind"], 5)),
        {"labels": "kind", "inputs": ["area"]},
        ["'kind'", "no value in row 6"],
    ),
    "not a number": (
        _with(area=np.where(np.arange(N) == 2, np.nan, HOUSES["area"])),
        {"labels": "kind", "inputs": ["area"]},
        ["'area'", "no value in row 3"],
    ),
    "infinite": (
        _with(area=np.where(np.arange(N) == 2, np.inf, HOUSES["area"])),
        {"labels": "kind", "inputs": ["area"]},
        ["'area'", "inf in row 3"],
    ),
    "dates": (
        _with(sold=np.arange(N).astype("datetime64[s]")),
        {"labels": "kind", "inputs": ["sold"]},
        ["'sold'", "holds timestamp", "data.inputs"],
    ),
    "text among labels": (HOUSES, {"labels": ["price", "kind"]}, ["'kind'", "'flat' in row 1"]),
    "every value a class": (
        _with(rooms=np.arange(N)),
        {"labels": "rooms", "inputs": ["area"]},
        ["has a single example", "say objective: regression"],
    ),
    "nothing else": ({"y": HOUSES["kind"]}, {"labels": "y"}, ["no other column"]),
    "no rows": ({"x": np.zeros(0), "y": np.zeros(0)}, {"labels": "y"}, ["0 inputs and 0 labels"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_file_the_column_and_the_row(case, kind, tmp_path):
    table, settings, parts = BAD[case]
    if (case, kind) == ("no rows", "csv"):  # a column without a value has no type there
        parts = ["holds null"]
    path = _write(tmp_path, kind, table)
    with pytest.raises(ValueError) as error:
        _load(path, **settings)
    for part in [*parts, path]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,a\n2\n", "cannot be read: CSV parse error: Expected 2 columns, got 1"),
        ("", "cannot be read: Empty CSV file"),
        ("x,x,y\n1,2,a\n", "different names, found \\['x'\\] twice"),
        ("x,y\n1,a\n,b\n3,a\n", "'x' of .* has no value in row 2"),
        ("x,y\n1,a\n?,b\n3,a\n", "'x' of .* holds text, '\\?' in row 2"),
        ("x,y\n1,a\n2,\n3,a\n", "'y' of .* has no value in row 2"),
    ],
)
def test_a_file_that_is_no_table_is_named(text, message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        _load(str(path), labels="y")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="a.parquet cannot be read"):
        _load(str(tmp_path / "a.parquet"), labels="y")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data.labels is missing"),
        ({"labels": []}, "data.labels must be a list of at least one entry"),
        ({"labels": "y", "inputs": ["y"]}, r"labels must be no inputs, got \['y'\]"),
        ({"labels": "y", "delimiter": "::"}, "data.delimiter must be one character"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DATA.read({"name": "csv:a.csv", **settings}, "data")


def test_a_run_on_a_table_pins_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path, "csv", HOUSES)
    small(tmp_path)
    section = "data={name: 'csv:a.csv', labels: price, categorical: [town, kind], batch_size: 4}"
    command = ["train", "small.yaml", section, "model.hidden=[4]", "method=static"]
    assert cli.main([*command, "train={steps: 3}", "--dir", "run"]) == 0
    figures = json.loads((tmp_path / "run" / run_dir.SUMMARY).read_text())
    assert figures["rmse"] > 1e4 and figures["r2"] < 1
    saved = config.load(tmp_path / "run" / run_dir.CONFIG)
    assert setup.make(saved).config == saved
    _write(tmp_path, "csv", _with(area=HOUSES["area"] + 1))
    with pytest.raises(setup.SetupError, match=f"this run is of data with SHA-256 .* in {path}"):
        setup.make(saved)


def test_without_its_package_the_message_names_it(tmp_path):
    path = _write(tmp_path, "csv", HOUSES)
    program = f"""
import sys
sys.modules["pyarrow"] = None
from dst.train import data
from dst.train.config.run import DATA
data.load(DATA.read({{"name": "csv:{path}", "labels": "kind"}}, "data"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs the module pyarrow, which is not installed: pip install" in done.stderr
