"""Laws of runs in the packed form: the same network, the same records, resumed bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dst
from dst import cli
from dst.train import Run, loop, setup
from tests.faults import records
from tests.training import assert_same, small, states_in

SHARED = ("optimizer.accumulate=2", "optimizer.weight_decay=0.3")
PACKED = ("sparsify.form=packed", *SHARED)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directories of a masked and of a packed run of one config."""
    folder = tmp_path_factory.mktemp("packed")
    loop.train(small(folder, *SHARED), folder / "masked")
    loop.train(small(folder, *PACKED), folder / "packed")
    return folder / "masked", folder / "packed"


def test_a_packed_run_trains_and_records_what_the_masked_one_does(runs):
    masked, packed = runs
    for name in ("masks-initial.safetensors", "masks-final.safetensors"):
        ours, theirs = dst.load_masks(packed / name), dst.load_masks(masked / name)
        assert ours.keys() == theirs.keys()
        for path, mask in ours.items():
            np.testing.assert_array_equal(mask, theirs[path], path)
    for ours, theirs in zip(records(packed), records(masked), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["kind"] == theirs["kind"]
        for key in ours.keys() - {"kind"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key
    layers = [json.loads((run / "summary.json").read_text())["layers"] for run in runs]
    assert layers[0] == layers[1]


def test_its_checkpoint_holds_active_weights_alone_and_its_model_is_dense(runs):
    masked, packed = (Run(run) for run in runs)
    kernel = states_in(runs[1])[40].params["hidden"][0]["kernel"]
    assert kernel.ndim == 1 and kernel.size == packed.masks["hidden/0/kernel"].sum()
    ours, theirs = (x.model().hidden[0].kernel.get_value() for x in (packed, masked))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stop", [10, 17])
def test_a_resumed_packed_run_equals_one_that_never_stopped(stop, runs, tmp_path):
    run = tmp_path / "run"
    assert loop.train(small(tmp_path, *PACKED), run, until=stop) is None
    loop.resume(run)
    assert_same(states_in(run)[40], states_in(runs[1])[40])


def test_what_the_packed_form_cannot_do_is_refused(tmp_path, capsys):
    with pytest.raises(setup.SetupError, match="optimizer.ema must be null"):
        loop.train(small(tmp_path, *PACKED, "optimizer.ema=0.9"), tmp_path / "ema")
    with pytest.raises(setup.SetupError, match='form="packed" is not for scale'):
        loop.train(small(tmp_path, *PACKED, "sparsify.scale=smupar"), tmp_path / "scale")
    command = ["lottery", "configs/digits/lottery.yaml", "sparsify.form=packed"]
    assert cli.main([*command, "--dir", str(tmp_path / "study")]) == 2
    assert "sparsify.form must be 'masked' here" in capsys.readouterr().err
