"""Laws of runs in the packed form: the same network, the same records, resumed bit for bit."""

from __future__ import annotations

import json
from functools import partial

import jax
import numpy as np
import pytest

import dst
from dst import cli
from dst.train import Run, loop, nonfinite, setup
from dst.train.config import run as config
from dst.train.records import fallback, run_dir
from tests.faults import records
from tests.training import assert_same, batch, small, states_in

SHARED = ("optimizer.accumulate=2", "optimizer.weight_decay=0.3")
PACKED = ("sparsify.form=packed", *SHARED)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directories of a masked and of a packed run of one config."""
    folder = tmp_path_factory.mktemp("packed")
    loop.train(small(folder, *SHARED), folder / "masked")
    loop.train(small(folder, *PACKED, "train.snapshots=[20]"), folder / "packed")
    return folder / "masked", folder / "packed"


def assert_records_agree(run, other):
    """Of two runs in different forms, within rounding."""
    for ours, theirs in zip(records(run), records(other), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["kind"] == theirs["kind"]
        for key in ours.keys() - {"kind"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key


def test_a_packed_run_trains_and_records_what_the_masked_one_does(runs):
    masked, packed = runs
    for name in ("masks-initial.safetensors", "masks-final.safetensors"):
        ours, theirs = dst.load_masks(packed / name), dst.load_masks(masked / name)
        assert ours.keys() == theirs.keys()
        for path, mask in ours.items():
            np.testing.assert_array_equal(mask, theirs[path], path)
    assert_records_agree(packed, masked)
    layers = [json.loads((run / "summary.json").read_text())["layers"] for run in runs]
    assert layers[0] == layers[1]


def test_its_checkpoint_holds_active_weights_alone_and_its_model_is_dense(runs):
    masked, packed = (Run(run) for run in runs)
    kernel = states_in(runs[1])[40].params["hidden"][0]["kernel"]
    assert kernel.ndim == 1 and kernel.size == packed.masks["hidden/0/kernel"].sum()
    ours, theirs = (x.model().hidden[0].kernel.get_value() for x in (packed, masked))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stop", [pytest.param(10, marks=pytest.mark.evidence), 17])
def test_a_resumed_packed_run_equals_one_that_never_stopped(stop, runs, tmp_path):
    run = tmp_path / "run"
    assert loop.train(small(tmp_path, *PACKED), run, until=stop) is None
    loop.resume(run)
    assert_same(states_in(run)[40], states_in(runs[1])[40])


OTHER = {"masked": "packed", "packed": "masked"}


def bare(state):
    """A state without the ages of inactive weights, which the packed form does not store."""
    opt_state = state.opt_state
    masks = dst.masks(opt_state), dst.explored(opt_state)
    return state._replace(opt_state=opt_state._replace(masks=masks))


@pytest.mark.parametrize("form", [pytest.param("masked", marks=pytest.mark.evidence), "packed"])
def test_a_run_goes_on_in_the_other_form_with_the_same_bits(form, runs, tmp_path):
    """Restored, rolled back or looked at: weights, masks and moments are those that were saved."""
    run, changed = tmp_path / "run", f"sparsify.form={OTHER[form]}"
    loop.train(small(tmp_path, *SHARED, f"sparsify.form={form}"), run, until=17)
    saved, text = states_in(run)[17], (run / "config.yaml").read_text()
    before = setup.make(config.load(run / "config.yaml"))
    (run / "config.yaml").write_text(text.replace(f"form: {form}", f"form: {OTHER[form]}"))
    pieces = setup.make(config.load(run / "config.yaml"))
    at, like, form_of = run / "checkpoints", pieces.begin(), pieces.other_form
    _, restored = fallback.restore(at, 17, like, other=form_of)
    assert_same(restored.weights, saved.weights)
    assert_same(dst.masks(restored.opt_state), dst.masks(saved.opt_state))
    assert_same(bare(before.other_form().converted(restored)), bare(saved))
    rollback = nonfinite.Rollback("rollback", at, form_of)
    _, again = rollback.to(nonfinite.Diverged(18, "the loss is nan at step 18."), like)
    assert_same(again, restored)
    kernel = Run(run).model().hidden[0].kernel.get_value()
    np.testing.assert_array_equal(kernel, saved.weights["hidden"][0]["kernel"])

    (run / "config.yaml").write_text(text)
    with pytest.raises(setup.SetupError, match="update schedule would be another one"):
        loop.resume(run, [changed, "train.steps=80"], changed=True)
    loop.resume(run, [changed])
    truth = dst.load_masks(runs[0] / "masks-final.safetensors")
    for path, mask in dst.load_masks(run / "masks-final.safetensors").items():
        np.testing.assert_array_equal(mask, truth[path], path)
    assert_records_agree(run, runs[0])


def test_a_run_begins_with_files_of_the_other_form(runs, tmp_path):
    files = (f"start.weights={runs[1] / run_dir.weights(20)}",)
    masks = f"start.masks={runs[1]}/masks-initial.safetensors"
    masked, packed = (
        setup.make(small(tmp_path, *SHARED, *files, masks, f"sparsify.form={form}")).begin()
        for form in OTHER
    )
    assert_same(packed.weights, masked.weights)
    assert_same(dst.masks(packed.opt_state), dst.masks(masked.opt_state))


@pytest.mark.evidence
def test_devices_divide_the_slots_of_a_run(tmp_path):
    """Before and after a topology step. What SET grows does not depend on the order of sums."""
    shared = "sparsify.form=packed", "method.name=set", "model.hidden=[2048]"
    meshes = ("mesh.data=1",), ("mesh.data=8", "mesh.fully_sharded=true")
    one, many = (setup.make(small(tmp_path, *shared, *mesh)) for mesh in meshes)
    states = one.begin(), many.begin()
    for _ in range(2):
        assert_same(*(jax.device_get(dst.masks(x.opt_state)) for x in states))
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            *(jax.device_get((x.params, x.opt_state)) for x in states),
        )
        at, kept = states[1].opt_state.masks["hidden"][0]["kernel"], jax.tree.leaves(states[1])
        slots = [x for x in kept if x.shape == at.index.shape]
        assert len(slots) == 5  # values, two moments, index, marks
        for x in (*slots, at.explored):
            assert x.addressable_shards[0].data.size * 8 == x.size
        states = [
            x.step(state, *batch(x, 0), topology=True)[0]
            for x, state in zip((one, many), states, strict=True)
        ]


def test_what_the_packed_form_cannot_do_is_refused(tmp_path, capsys):
    with pytest.raises(setup.SetupError, match="optimizer.ema must be null"):
        loop.train(small(tmp_path, *PACKED, "optimizer.ema=0.9"), tmp_path / "ema")
    command = ["lottery", "configs/digits/lottery.yaml", "sparsify.form=packed"]
    assert cli.main([*command, "--dir", str(tmp_path / "study")]) == 2
    assert "sparsify.form must be 'masked' here" in capsys.readouterr().err
