"""The pictures and lines of a report: what they count, and what they leave out."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dst.inspect import mask_images
from dst.report import pictures, plots


def test_input_maps_count_the_connections_of_each_pixel():
    before, after = np.zeros((9, 5), bool), np.zeros((9, 5), bool)
    before[0, :3] = before[8, :1] = True
    after[4, :5] = True
    view = pictures.look("w", before, after)
    numbers = [re.findall(r"<text[^>]*>(\d+)<", plot.svg) for plot in view.pixels]
    assert numbers == [["3", *"0000000", "1"], [*"0000", "5", *"0000"]]
    assert "Pixels without any connection: 7 before training, 8 after training." in view.pixel_text
    labels = [key.label for key in view.matrices[2].legend]
    assert labels == ["kept 0", "grown 5", "dropped 4"]


@pytest.mark.parametrize("shape", [(10, 7), (3, 3, 2, 8), (16, 4), (1, 1), (2000, 3), (700, 600)])
def test_masks_of_any_shape_have_pictures(shape):
    rng = np.random.default_rng(0)
    view = pictures.look("w", rng.random(shape) < 0.5, np.zeros(shape, bool))
    assert len(view.matrices) == 3 or shape == (1, 1)
    assert bool(view.pixels) == (shape == (16, 4))


@pytest.mark.parametrize(
    "masks", [(None, None), ((3,), (3,)), ((0, 4), (0, 4)), ((3, 4), (4, 3))], ids=str
)
def test_masks_that_cannot_be_compared_have_none(masks):
    before, after = (None if shape is None else np.ones(shape, bool) for shape in masks)
    assert pictures.look("w", before, after) is None


def test_pictures_show_large_masks_by_their_density():
    mask = np.zeros((2048, 4), bool)
    mask[:1024] = True
    weight = mask_images.shrunk(mask.astype(float))
    assert weight.shape == (512, 4)
    assert weight.mean() == pytest.approx(0.5)
    assert weight[0, 0] == 1.0 and weight[-1, 0] == 0.0


def test_the_last_value_is_drawn_however_long_the_run():
    line = plots.Line("a", np.arange(5000.0), np.zeros(5000), plots.SERIES[0])
    x, _ = plots.thinned(line)
    assert x[-1] == 4999 and x[0] == 0 and x.size <= 1502


def test_averages_skip_what_is_no_number():
    y = np.array([1.0, np.nan, 3.0, 3.0, 3.0])
    np.testing.assert_allclose(plots.smooth(y, 3), [1.0, np.nan, 3.0, 3.0, 3.0])
