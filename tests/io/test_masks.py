"""Laws of mask files: both forms come back as they were; other files are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import dst

SHAPES = [(), (1,), (7,), (8,), (9,), (3, 5), (2, 3, 4), (0, 3), (64, 33)]


@given(seed=st.integers(0, 2**32 - 1), packed=st.booleans())
def test_masks_come_back_as_they_were(tmp_path_factory, seed, packed):
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    numbers = np.random.default_rng(seed)
    masks = {f"leaf/{i}": numbers.random(shape) < 0.5 for i, shape in enumerate(SHAPES)}
    dst.save_masks(path, masks, packed=packed)
    found = dst.load_masks(path)
    assert found.keys() == masks.keys()
    for name, mask in masks.items():
        assert found[name].dtype == bool
        np.testing.assert_array_equal(found[name], mask)


def test_a_packed_mask_takes_a_bit_per_weight(tmp_path):
    masks = {"w": np.ones((800, 100), bool)}
    for packed in (False, True):
        dst.save_masks(tmp_path / f"{packed}", masks, packed=packed)
    sizes = [(tmp_path / f"{x}").stat().st_size for x in (False, True)]
    assert sizes[0] > 80_000 and sizes[1] < 10_300


@pytest.mark.parametrize(
    ("bits", "shapes"),
    [
        (np.zeros(2, np.uint8), '{"w": [17]}'),
        (np.zeros(3, np.uint8), '{"w": [-17]}'),
        (np.zeros(3, np.float32), '{"w": [17]}'),
        (np.zeros(3, np.uint8), "{}"),
        (np.zeros(3, np.uint8), "[17]"),
        (np.zeros(3, np.uint8), "no json"),
        (np.zeros(3, np.uint8), '{"w": null}'),
    ],
)
def test_bits_that_fit_no_shape_are_refused(tmp_path, bits, shapes):
    metadata = {"dst masks, one bit each": shapes}
    save_file({"w": bits}, tmp_path / "masks", metadata=metadata)
    with pytest.raises(ValueError, match="the bits of a mask of shape|no shapes of its packed"):
        dst.load_masks(tmp_path / "masks")
