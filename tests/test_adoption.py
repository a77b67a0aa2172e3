"""The code that README and the how-tos show, executed verbatim: adoption, and a new method."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from flax.training.train_state import TrainState

import dst
import dst.nnx
from dst.core.tree import flatten
from dst.methods import METHODS, PRESETS
from tests.runs import QUICK

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LOOP = (ROOT / "docs/howto/loop.md").read_text()
METHOD = (ROOT / "docs/howto/method.md").read_text()
X = jax.random.normal(jax.random.key(0), (16, 20))
Y = jnp.arange(16) % 10


def block(page, name):
    """The code between two marker comments."""
    return re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```\n<!-- /{name} -->", page, re.S)[1]


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def network(params, x):
    return jnp.tanh(x @ params["hidden"]["kernel"]) @ params["out"]["kernel"]


def initial_params():
    keys = jax.random.split(jax.random.key(1))
    return {
        "hidden": {"kernel": jax.random.normal(keys[0], (20, 30))},
        "out": {"kernel": jax.random.normal(keys[1], (30, 10))},
    }


def assert_sparse_and_trained(opt_state, params, losses):
    dst.check_invariants(opt_state, params)
    assert int(dst.metrics(opt_state, params)["topology_steps"]) == 1
    active = sum(int(m.sum()) for m in dst.masks(opt_state).values())
    size = sum(m.size for m in dst.masks(opt_state).values())
    assert abs(active - size / 10) <= len(dst.masks(opt_state))
    assert losses[-1] < losses[0]


def test_the_script_of_the_readme_prints_what_the_readme_shows(capsys):
    code = block(README, "script")
    assert len([line for line in code.splitlines() if line]) <= 12
    exec(code, {})
    assert capsys.readouterr().out == block(README, "output")


def test_a_dict_loop_is_sparse_with_the_lines_of_the_page():
    names = {
        "jax": jax,
        "optax": optax,
        "dst": dst,
        "params": initial_params(),
        "loss_fn": lambda p, x, y: cross_entropy(network(p, x), y),
    }
    exec(block(LOOP, "adopt_dict"), names)
    params, opt_state, losses = names["params"], names["opt_state"], []
    for _ in range(105):
        params, opt_state, loss = names["train_step"](params, opt_state, X, Y)
        losses.append(float(loss))
    assert_sparse_and_trained(opt_state, params, losses)


def test_an_nnx_loop_is_sparse_with_the_lines_of_the_page():
    model = nnx.Sequential(
        nnx.Linear(20, 30, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(30, 10, rngs=nnx.Rngs(1))
    )
    names = {
        "nnx": nnx,
        "optax": optax,
        "dst": dst,
        "model": model,
        "loss_fn": lambda m, x, y: cross_entropy(m(x), y),
    }
    exec(block(LOOP, "adopt_nnx"), names)
    losses = [float(names["train_step"](model, names["optimizer"], X, Y)) for _ in range(105)]
    dst.nnx.check_invariants(model, names["optimizer"])
    params = nnx.state(model, nnx.Param)
    assert_sparse_and_trained(names["optimizer"].opt_state, params, losses)
    assert set(dst.nnx.masks(model)) == {"layers/0/kernel", "layers/2/kernel"}


def test_a_linen_train_state_is_sparse_with_the_lines_of_the_page():
    model = linen.Dense(10)
    names = {
        "jax": jax,
        "optax": optax,
        "dst": dst,
        "TrainState": TrainState,
        "model": model,
        "params": model.init(jax.random.key(0), X)["params"],
        "loss_fn": lambda p, x, y: cross_entropy(model.apply({"params": p}, x), y),
    }
    exec(block(LOOP, "adopt_linen"), names)
    state, losses = names["state"], []
    for _ in range(105):
        state, loss = names["train_step"](state, X, Y)
        losses.append(float(loss))
    assert_sparse_and_trained(state.opt_state, state.params, losses)


def test_a_method_of_ones_own_takes_eight_lines_of_the_page():
    code = block(METHOD, "own_method")
    names = {"dst": dst, "optax": optax}
    exec(code, names)
    assert len(code.strip().splitlines()) <= 8
    params = initial_params()
    opt_state = jax.jit(names["tx"].init, compiler_options=QUICK)(params)
    before = dst.masks(opt_state)
    params = dst.apply_masks(params, opt_state)
    slope_of = jax.grad(lambda p: cross_entropy(network(p, X), Y))
    grads = jax.jit(slope_of, compiler_options=QUICK)(params)
    step = jax.jit(
        lambda g, s, p: names["tx"].update(g, s, p, topology=True), compiler_options=QUICK
    )
    updates, opt_state = step(grads, opt_state, params)
    dst.check_invariants(opt_state, optax.apply_updates(params, updates))
    after = jax.device_get(dst.masks(opt_state))
    for (path, old), slope in zip(jax.device_get(before).items(), flatten(grads)[1], strict=True):
        # Nothing inactive was tried before, so the steepest of it has grown.
        grown, left = after[path] & ~old, ~after[path] & ~old
        slope = np.abs(slope)
        assert slope[grown].min() >= slope[left].max()
        assert grown.sum() == (old & ~after[path]).sum() > 0


def test_the_views_of_the_page_work():
    params = initial_params()
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.9))
    opt_state = tx.init(params)
    params = dst.apply_masks(params, opt_state)
    names = {"dst": dst, "tx": tx, "params": params, "opt_state": opt_state}
    exec(block(LOOP, "views"), names)


def test_every_method_has_a_row_on_its_page_and_the_readme_shows_some_of_them():
    page = (ROOT / "docs/intro/methods.md").read_text()
    rows = re.findall(r"^(\| \[.*)\]\(../../(dst/(?:methods|contrib)/.*)$", page, re.MULTILINE)
    shown = {name for row, _ in rows for name in re.findall(r"`(\w+)`", row)}
    assert shown == {x.__name__ for x in {**METHODS, **PRESETS}.values()} - {"Dense"}
    some = re.findall(r"^(\| \[.*)\]\((dst/(?:methods|contrib)/.*)$", README, re.MULTILINE)
    assert len(some) > 10 and set(some) <= set(rows)


def test_the_readme_fits_two_screens():
    assert len(README.splitlines()) <= 110


def test_every_file_that_pages_name_exists():
    methods = (ROOT / "docs/intro/methods.md").read_text()
    linked = re.findall(r"\]\(([\w./]+)\)", README)
    for target in linked + re.findall(r"`(tests/[\w./]+)`", README + methods):
        assert (ROOT / target).exists(), target
