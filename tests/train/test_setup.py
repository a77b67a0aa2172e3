"""Laws of the pieces of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dst.train import setup
from tests.training import assert_same, batch, small


@pytest.mark.parametrize(
    "change",
    [
        "method.name=rigl",
        "method={name: sr-ste, n: 2, m: 4}",
        pytest.param("sparsify.form=packed", marks=pytest.mark.evidence),
    ],
)
def test_pieces_of_another_seed_share_what_is_compiled_and_begin_as_their_own(change, tmp_path):
    one = setup.make(small(tmp_path, change))
    other = replace(small(tmp_path, change), seed=7, name="other")
    shared, own = one.seeded(other), setup.make(other)
    assert shared.config == own.config and shared.config.seed == 7
    assert shared.step is one.step and shared.evaluate is one.evaluate
    assert shared.costs() is one.costs()
    assert_same(shared.begin(), own.begin())
    for mine, theirs in zip(batch(shared, 3), batch(own, 3), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    updated = [x.step(x.begin(), *batch(x, 0), topology=True)[0] for x in (shared, own)]
    assert_same(*updated)


def test_what_recalibrates_follows_the_seed(tmp_path):
    settings = small(
        tmp_path, "train.recalibrate=2", "model={name: convnet, channels: [4], norm: batch}"
    )
    one = setup.make(settings)
    other = replace(settings, seed=7)
    shared, own = one.seeded(other), setup.make(other)
    assert shared.evaluate is not one.evaluate
    assert shared.evaluate(shared.begin()) == own.evaluate(own.begin())
