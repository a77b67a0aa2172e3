"""Laws of what a network carries beside its weights: BatchNorm's statistics, random layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst.train import setup
from dst.train import state as states
from dst.train.data import digits, stream
from dst.train.records import checkpoint
from dst.train.step import finite
from tests.training import assert_same, batch, saved, small

NORMED = (
    "model={'name': 'convnet', 'channels': [3], 'hidden': 4, 'norm': 'batch'}",
    "train.steps=20",
    "method.every=10",  # after the steps that are taken here: one program less to compile
    "optimizer.accumulate=2",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network with BatchNorm after six steps: config, setup, state."""
    found = small(tmp_path_factory.mktemp("normed"), *NORMED)
    made = setup.make(found)
    return found, made, _steps(made, made.begin(), 0, 6)


def _steps(made, state, start, stop):
    for count in range(start, stop):
        state, _ = made.step(state, *batch(made, count), topology=made.fires(count))
    return state


def _plain(found, state):
    """The network as an NNX object with the weights and statistics of a state."""
    model = states.network(found.model, (8, 8, 1), 10, found.seed)
    for part in (state.params, state.variables):
        whole = nnx.state(model)
        nnx.replace_by_pure_dict(whole, part)
        nnx.update(model, whole)
    return model


def _loss(model, inputs, labels):
    logits = np.asarray(jax.jit(lambda m, x: m(x))(model, inputs), np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(share[np.arange(len(labels)), labels]).mean()


def _test_set():
    ((inputs, labels),) = stream.testing(digits.load())
    return inputs, labels


def _statistics(state):
    return {k: np.asarray(v) for k, v in state.variables["norm"][0].items()}


def test_running_statistics_are_those_of_a_plain_loop(trained):
    found, made, _ = trained
    state = made.begin()
    for count in range(2):
        inputs, labels = batch(made, count)
        model = _plain(found, state)
        model.train()
        for part in inputs:
            model(part)
        state, _ = made.step(state, inputs, labels, topology=False)
        expected = model.norm[0]
        got = _statistics(state)
        np.testing.assert_allclose(got["mean"], expected.mean.get_value(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["var"], expected.var.get_value(), rtol=1e-5, atol=1e-6)
    assert (got["mean"] != 0).all()


def test_evaluation_uses_running_statistics_and_changes_nothing(trained):
    found, made, state = trained
    before = jax.device_get(state)
    scores = made.evaluate(state)
    assert_same(jax.device_get(state), before)
    model = _plain(found, state)
    model.eval()
    assert scores["loss"] == pytest.approx(_loss(model, *_test_set()), rel=1e-4)


def test_recalibrated_statistics_are_means_over_batches(trained, tmp_path):
    found, made, state = trained
    scores = setup.make(small(tmp_path, *NORMED, "train.recalibrate=3")).evaluate(state)
    model = _plain(found, state)
    seen = [np.asarray(model.conv[0](part)) for n in range(3) for part in batch(made, n)[0]]
    assert len(seen) == 6
    mean = np.mean([x.mean(axis=(0, 1, 2)) for x in seen], axis=0)
    variance = np.mean([x.var(axis=(0, 1, 2)) for x in seen], axis=0)
    model.eval()
    model.norm[0].mean.set_value(np.float32(mean))
    model.norm[0].var.set_value(np.float32(variance))
    assert scores["loss"] == pytest.approx(_loss(model, *_test_set()), rel=1e-4)
    assert abs(scores["loss"] - made.evaluate(state)["loss"]) > 1e-3


def _continues(made, state, start, folder):
    """Three more steps, directly and from a checkpoint, end in the same."""
    saved(folder, {start: state})
    restored = checkpoint.restore(folder, start, made.begin())
    again = _steps(made, restored, start, start + 3)
    straight = _steps(made, state, start, start + 3)
    return [_numbers(x) for x in (straight, again)]


def _numbers(state):
    def raw(x):
        return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(raw, state)


def test_statistics_resume_bit_for_bit(trained, tmp_path):
    _, made, state = trained
    state = jax.tree.map(jnp.copy, state)  # steps give their state away
    before = _statistics(state)
    straight, again = _continues(made, state, 6, tmp_path)
    assert (_statistics(straight)["mean"] != before["mean"]).all()
    assert_same(straight, again)


def test_statistics_that_are_not_finite_end_a_run(trained):
    state = trained[2]
    assert finite(state)
    bad = jax.tree.map(lambda x: x * np.float32(np.inf), state.variables)
    assert not finite(state._replace(variables=bad))


def test_networks_without_carry_nothing(tmp_path):
    assert setup.make(small(tmp_path)).begin().variables == {}


class Noisy(nnx.Module):
    """A network whose random layer has a state of its own."""

    def __init__(self, shape, classes, *, hidden, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(int(np.prod(shape)), classes, rngs=rngs)

    def __call__(self, inputs):
        return self.out(self.dropout(inputs.reshape(len(inputs), -1)))


def test_random_layers_resume_bit_for_bit_and_rest_at_evaluation(tmp_path):
    made = setup.make(small(tmp_path, f"model={{import: '{__name__}:Noisy', hidden: 1}}"))
    state = _steps(made, made.begin(), 0, 2)
    assert made.evaluate(state) == made.evaluate(state)
    straight, again = _continues(made, state, 2, tmp_path / "saved")
    assert int(straight.variables["dropout"]["rngs"]["count"]) == 5
    assert_same(straight, again)
