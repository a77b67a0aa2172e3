"""A loop of the user's own writes the run directory that reports and sweeps read."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx
import dst.train
from dst.report import reading, write_report
from dst.train.records.run_dir import DirectoryError

X = jax.random.normal(jax.random.key(0), (32, 8))
Y = jnp.sum(X[:, :2], axis=1, keepdims=True)


@jax.jit
def loss_fn(params):
    return jnp.mean((jnp.tanh(X @ params["hidden"]) @ params["out"] - Y) ** 2)


@cache
def pieces(method):
    """The transformation of a method and a compiled step: compiling is what these tests cost."""
    tx = dst.sparsify(optax.adam(0.05), method)

    @jax.jit
    def update(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return tx, update


SET = dst.SET(0.5, every=3, stop=9)


def trained(where, begin=0, end=10, carried=None, method=None, **options):
    """A plain loop; returns what it carries on."""
    tx, update = pieces(method or SET)
    keys = jax.random.split(jax.random.key(1))
    params = {"hidden": jax.random.normal(keys[0], (8, 16)), "out": jnp.ones((16, 1))}
    state = tx.init(params)
    params, state = carried or (dst.apply_masks(params, state), state)
    options = {"settings": {"seed": 3}, "log_every": 5, **options}
    with dst.train.Recorder(where, tx, state, start=begin, **options) as recorder:
        for step in range(begin + 1, end + 1):
            params, state, loss = update(params, state)
            recorder.step(step, state, params, loss=loss)
            if step % 5 == 0:
                recorder.evaluate(step, state, params, loss=loss_fn(params), accuracy=step / 20)
        figures = recorder.finish(state, params) if end == 10 else None
    return (params, state), figures


def test_the_records_of_a_plain_loop_are_those_of_a_run(tmp_path):
    (params, state), figures = trained(tmp_path / "mine")
    run = dst.train.Run(tmp_path / "mine")
    assert [row["step"] for row in run.records if row["kind"] == "topology"] == [4, 7]
    assert [row["step"] for row in run.records if row["kind"] == "train"] == [5, 10]
    assert figures == run.figures and figures["accuracy"] == 0.5 and figures["steps"] == 10
    dropped = {row["path"]: row["dropped_total"] for row in figures["layers"]}
    logged = [row["dropped/hidden"] for row in run.records if row["kind"] == "topology"]
    assert dropped["hidden"] == sum(logged) > 0
    for path, mask in dst.masks(state).items():
        np.testing.assert_array_equal(run.masks[path], mask)
    assert int(jnp.count_nonzero(params["hidden"])) <= 64
    config = reading.read(tmp_path / "mine").config
    assert config["name"] == "mine" and config["seed"] == 3
    assert config["method"]["name"] == "set" and config["method"]["sparsity"] == 0.5


def test_its_report_says_method_sparsity_and_score(tmp_path):
    trained(tmp_path / "mine", test_labels=100)
    page = write_report(tmp_path / "mine").read_text()
    assert "SET at 50 % sparsity" in page and "50 of 100" in page


def test_records_after_the_step_that_a_loop_starts_again_from_are_replaced(tmp_path):
    whole, other = tmp_path / "whole", tmp_path / "stopped"
    trained(whole)
    trained(other, end=7)
    assert dst.train.Run(other).figures is None
    point = trained(tmp_path / "again", end=5)[0]  # the checkpoint of the loop
    trained(other, begin=5, carried=point)
    kept = ("step", "kind", "loss", "sparsity", "dropped")
    first, second = (
        [{k: row.get(k) for k in kept} for row in dst.train.Run(x).records] for x in (whole, other)
    )
    assert first == second
    with pytest.raises(DirectoryError, match="exists"):
        trained(other)
    trained(other, overwrite=True)


def test_an_nnx_loop_is_recorded_with_its_costs(tmp_path):
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    optimizer = dst.nnx.Optimizer(model, optax.sgd(0.1), dst.Static(0.5))
    costs = dst.nnx.costs(model, jnp.ones((1, 8)))
    with dst.train.Recorder(tmp_path / "nnx", optimizer, costs=costs) as recorder:
        recorder.step(1, optimizer, model)
        figures = recorder.finish(optimizer, model, accuracy=0.25, mine=2.0)
    assert figures["forward_cost"] == 0.5 and figures["mine"] == 2.0
    assert [row["path"] for row in figures["layers"]] == ["bias", "kernel"]
    assert (tmp_path / "nnx/masks-initial.safetensors").is_file()


def test_the_last_scores_of_any_name_are_figures_and_numbers_only(tmp_path):
    tx, _ = pieces(SET)
    params = {"hidden": jnp.ones((8, 16)), "out": jnp.ones((16, 1))}
    state = tx.init(params)
    with dst.train.Recorder(tmp_path / "run", tx, state) as recorder:
        recorder.evaluate(1, state, params, quality=0.25)
        recorder.evaluate(2, state, params, quality=0.75, broken=jnp.nan)
        recorder.finish(state, params)
    figures = dst.train.Run(tmp_path / "run").figures
    assert figures["quality"] == 0.75 and "broken" not in figures


def test_a_dense_loop_and_a_method_of_ones_own_have_a_name(tmp_path):
    _, figures = trained(tmp_path / "dense", method=dst.Dense())
    assert figures["sparsity"] == 0
    rule = SET.rule(10)
    trained(tmp_path / "rule", method=rule)
    names = [reading.read(tmp_path / x).config["method"]["name"] for x in ("dense", "rule")]
    assert names == ["dense", "Rule"]


def test_a_plain_optimizer_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"what dst.sparsify returns.*dst.Dense"):
        dst.train.Recorder(tmp_path / "x", optax.sgd(0.1))
    assert not list(tmp_path.iterdir())


def test_arguments_change_defaults_of_their_type(capsys):
    defaults = {"seed": 0, "rate": 0.1, "method": {"sparsity": 0.9}, "note": None}
    given = ["seed=3", "rate=1", "method={'sparsity': 0.5}", "note=x"]
    expected = {"seed": 3, "rate": 1, "method": {"sparsity": 0.5}, "note": "x"}
    assert dst.train.arguments(defaults, given) == expected
    for wrong, message in {
        "sed=3": "Did you mean 'seed'",
        "seed=a": "type of its default 0, got 'a'",
        "method.sparsty=1": "Did you mean 'method.sparsity'",
        "seed": "key=value",
    }.items():
        with pytest.raises(SystemExit):
            dst.train.arguments(defaults, [wrong])
        assert message in capsys.readouterr().err
