"""Laws of files of deployed matrices: every bit comes back; other files are refused."""

from __future__ import annotations

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dst
from tests.forms.matrices import CASES, DTYPES, bits, rows, sparse
from tests.forms.test_deploy import FORMS, forward, pattern, tree


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_comes_back_bit_for_bit(tmp_path, form, dtype):
    weight = pattern(dtype=dtype)
    matrix = dst.deploy(weight, form)
    dst.save_deployed(tmp_path / "matrix", matrix)
    found = dst.load_deployed(tmp_path / "matrix")
    assert type(found) is type(matrix) and found.nbytes == matrix.nbytes
    assert bits(found.dense()) == bits(weight) and found.dtype == dtype


@pytest.mark.parametrize("form", ["condensed", "csr", "dense"])
@pytest.mark.parametrize("case", CASES)
def test_empty_and_full_matrices_come_back(tmp_path, case, form):
    weight = sparse(*case)
    dst.save_deployed(tmp_path / "matrix", dst.deploy(weight, form))
    found = dst.load_deployed(tmp_path / "matrix")
    assert found.shape == weight.shape and bits(found.dense()) == bits(weight)


@pytest.mark.parametrize("form", ["auto", "csr", "2:4"])
def test_a_tree_comes_back_in_its_containers(tmp_path, form):
    params = tree()
    params["out"] = ({"kernel": params["out"][0]["kernel"]}, jnp.zeros(2), np.float64(1 / 3), [])
    deployed = dst.deploy(params, form)
    dst.save_deployed(tmp_path / "tree", deployed)
    found = dst.load_deployed(tmp_path / "tree")
    assert list(found) == list(deployed) and type(found["out"]) is tuple
    assert found["out"][3] == [] and found["out"][2] == 1 / 3
    assert found["step"].dtype == np.int32 and found["step"].shape == ()
    x = rows(3, 40)
    np.testing.assert_array_equal(forward(found, x), forward(deployed, x))
    assert "layers/0/bias" in load_file(tmp_path / "tree")


def test_indices_take_as_few_bytes_as_hold_them(tmp_path):
    for inputs, size in ((256, 1), (257, 2), (65536, 2), (65537, 4)):
        weight = np.zeros((inputs, 2), np.float32)
        weight[[0, -1]] = 1
        for form in ("condensed", "csr"):
            dst.save_deployed(tmp_path / "matrix", dst.deploy(weight, form))
            assert load_file(tmp_path / "matrix")["indices"].dtype.itemsize == size
            assert bits(dst.load_deployed(tmp_path / "matrix").dense()) == bits(weight)


def test_two_saves_write_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        dst.save_deployed(tmp_path / name, dst.deploy(tree()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("deployed", "message"),
    [
        ({3: np.ones(2)}, "keys must be strings, got 3"),
        ({"a": [np.ones(2), 1.5]}, "a/1: expected a deployed matrix, an array.*got float"),
        ({"a": {"b": np.ones(2)}, "a/b": np.ones(2)}, "two arrays have the path 'a/b'"),
        (dst.deploy(pattern(), "2:4").packed, "got PackedNM"),
    ],
)
def test_what_has_no_place_in_a_file_is_refused_and_the_old_file_stays(tmp_path, deployed, message):
    path = tmp_path / "tree"
    path.write_text("old")
    with pytest.raises(ValueError, match=message):
        dst.save_deployed(path, deployed)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["tree"]


def test_files_that_are_not_whole_are_refused(tmp_path):
    path = tmp_path / "matrix"
    dst.save_deployed(path, dst.deploy(sparse(40, 24, 0.9)))
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is no safetensors file"):
            dst.load_deployed(path)
    with pytest.raises(FileNotFoundError, match="no deployed file at"):
        dst.load_deployed(tmp_path / "nothing")


def test_files_of_something_else_are_refused(tmp_path):
    dst.save_weights(tmp_path / "weights", {"w": np.ones((2, 2), np.float32)})
    with pytest.raises(ValueError, match="holds no deployed matrices"):
        dst.load_deployed(tmp_path / "weights")


def node(form="condensed", path="", inputs=3):
    return {"form": form, "path": path, "inputs": inputs}


VALUES = np.ones((2, 2), np.float32)
INDICES = np.array([[0, 1], [1, 2]], np.uint8)


@pytest.mark.parametrize(
    ("described", "arrays", "message"),
    [
        (node(), {"indices": INDICES + 1}, "below 3"),
        (node(), {"indices": INDICES.astype(np.float32)}, "one shape"),
        (node(), {"values": VALUES.astype(np.int32)}, "must be floating-point, got int32"),
        (node(path="a"), {}, "there is no array 'a/values'"),
        (node("csr"), {}, "there is no array 'pointers'"),
        (node("csr"), {"pointers": np.zeros(3, np.int32)}, "last two int32"),
        (node("2:4"), {"indices": INDICES + 3}, "below 4"),
        (node("2:1"), {}, "m must be an integer"),
        (node("coo"), {}, "no form 'coo'"),
        (node(inputs="3"), {}, "inputs must be an integer"),
        (node(inputs=-1), {}, "inputs must be an integer"),
        ({"form": "array", "path": "x"}, {}, "there is no array 'x'"),
        ({"list": 3}, {}, "TypeError"),
        ({}, {}, "KeyError"),
        (3, {}, "TypeError"),
    ],
)
def test_arrays_that_are_no_matrices_are_refused(tmp_path, described, arrays, message):
    path = tmp_path / "matrix"
    found = {"values": VALUES, "indices": INDICES} | arrays
    save_file(found, path, metadata={"dst deployed": json.dumps(described)})
    with pytest.raises(ValueError, match=f"cannot be read: .*{message}"):
        dst.load_deployed(path)


@pytest.mark.parametrize("text", ["no json", "[" * 10_000, "null"])
def test_metadata_that_are_none_are_refused(tmp_path, text):
    save_file({"values": VALUES}, tmp_path / "matrix", metadata={"dst deployed": text})
    with pytest.raises(ValueError, match="cannot be read"):
        dst.load_deployed(tmp_path / "matrix")
