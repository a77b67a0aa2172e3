"""A run from Python: trained from plain data, opened again, its network with and without masks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dst
import dst.nnx
import dst.train
from dst.train.config.run import ConfigError
from dst.train.data import digits
from dst.train.records.run_dir import DirectoryError

CONFIG = {
    "name": "small",
    "model": {"name": "mlp", "hidden": [16]},
    "data": {"name": "digits", "batch_size": 64},
    "optimizer": {"name": "adamw", "learning_rate": 3e-3, "ema": 0.9},
    "method": {"name": "set", "sparsity": 0.5, "every": 5, "stop": 15},
    "train": {"steps": 20, "log_every": 10, "eval_every": 10, "checkpoint_every": 20},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "small"
    return dst.train.run(CONFIG, ["seed=1"], where=where)


def test_a_run_from_plain_data_is_what_the_command_would_train(run):
    assert run.config.seed == 1 and run.figures["steps"] == 20 == run.step
    assert {row["kind"] for row in run.records} == {"train", "eval", "topology"}
    assert dst.train.Run(run.directory).figures == run.figures


def test_its_network_has_the_recorded_accuracy_and_its_masks(run):
    model, test = run.model(), digits.load().test
    accuracy = np.mean(np.argmax(model(test.images), -1) == test.labels)
    assert accuracy == pytest.approx(run.figures["accuracy"])
    carried = dst.nnx.masks(model)
    for path, mask in run.masks.items():
        np.testing.assert_array_equal(carried[path], mask)
    average = run.model(average=True, attach_masks=False)
    assert not nnx.state(average, dst.nnx.Mask)
    weights = dict(nnx.to_flat_state(nnx.state(average, nnx.Param)))
    for path, variable in weights.items():
        if (mask := run.masks.get("/".join(map(str, path)))) is not None:
            assert not np.any(np.asarray(variable.get_value())[~mask])


def test_its_records_are_a_data_frame(run):
    frame = run.frame("eval")
    assert list(frame["step"]) == [10, 20] and "accuracy" in frame and "dropped" in frame
    assert "learning_rate" not in frame and len(run.frame()) == len(run.records)


def test_what_does_not_fit_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="the config with method.sparsity=2: method.sparsity"):
        dst.train.run(CONFIG, ["method.sparsity=2"], where=tmp_path / "x")
    with pytest.raises(DirectoryError, match="exists"):
        dst.train.run(CONFIG, where=run.directory)
    with pytest.raises(DirectoryError, match="no run directory"):
        dst.train.Run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_masks_of_another_model_are_refused():
    model = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"expected x of shape \(4, 4\).*no such parameter"):
        dst.nnx.attach(model, {"x": jnp.ones((4, 4), bool)})
    with pytest.raises(ValueError, match=r"found a parameter of shape \(4, 4\)"):
        dst.nnx.attach(model, {"kernel": jnp.ones((2, 4), bool)})
    dst.nnx.attach(model, {"kernel": jnp.ones((4, 4), bool)})
    assert model.kernel_mask.get_value().all()
