"""Things of the user's own, by import path: a model, a data set, a method, an objective."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from textwrap import dedent

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ruamel.yaml import YAML

import dst
from dst import cli
from dst.core.registry import Registry
from dst.train import optimizer, setup
from dst.train.config import run as config
from tests.training import ROOT

NETS = """
import math

import jax.numpy as jnp
from flax import nnx


class Small(nnx.Module):
    def __init__(self, shape, classes, *, width: int = 16, rngs):
        self.hidden = nnx.Linear(math.prod(shape), width, rngs=rngs)
        self.out = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, inputs):
        return self.out(nnx.relu(self.hidden(inputs.reshape(len(inputs), -1))))


def not_a_network(classes: int):
    return classes
"""
SPIRALS = """
import numpy as np

from dst.train.data import from_arrays


def Spirals(*, noise: float = 0.1, turns: float = 1.0):
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 400).astype(np.int32)
    r = random.uniform(0.1, 1, 400)
    angle = 2 * np.pi * turns * r + np.pi * y
    x = np.stack([r * np.cos(angle), r * np.sin(angle)], 1) + noise * random.normal(size=(400, 2))
    x = x.astype(np.float32)
    return from_arrays(train=(x[100:], y[100:]), test=(x[:100], y[:100]))
"""
MINE = """
import jax.numpy as jnp
import optax

import dst
from dst.rules import scores
from dst.rules.fields import Sparsity


@dst.method
class Churn:
    sparsity: Sparsity
    every: int = 10

    def rule(self, steps=None):
        return dst.Rule(
            self.sparsity,
            when=dst.UpdateSchedule(self.every, self.every, 30),
            how_many=dst.HowMany(fraction=dst.constant(0.5)),
            which=dst.Which(grow=scores.random),
        )


class Lines:
    def __init__(self, where, *, file: str = "lines.txt"):
        self.file = (where / file).open("a", encoding="utf-8")

    def log(self, step, kind, values):
        print(step, kind, file=self.file)

    def close(self, summary):
        self.file.close()


def focal_loss(model, batch, key, *, gamma: float = 2.0):
    inputs, labels = batch
    logits = model(inputs)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    loss = jnp.mean((1 - jnp.exp(-nats)) ** gamma * nats)
    return loss, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}
"""
CONFIG = """
name: own
model: {import: "own_nets:Small", width: 12}
data: {import: "own_spirals.py:Spirals", noise: 0.05, batch_size: 48}
method: {import: "own_mine:Churn", sparsity: 0.5}
objective: {import: "own_mine:focal_loss", gamma: 1.5}
loggers: [{import: "own_mine:Lines", file: own.txt}]
optimizer: {name: adam, learning_rate: 3e-3}
train: {steps: 40, log_every: 10, eval_every: 20, checkpoint_every: 20}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory outside of the package with a config and what it imports."""
    for name, text in (("own_nets", NETS), ("own_spirals", SPIRALS), ("own_mine", MINE)):
        (tmp_path / f"{name}.py").write_text(dedent(text), encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own.yaml").write_text(CONFIG, encoding="utf-8")
    yield tmp_path
    for name in ("own_nets", "own_spirals", "own_mine"):
        sys.modules.pop(name, None)
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]


def test_a_run_of_things_of_ones_own_trains_resumes_and_reports(folder):
    where = folder / "run"
    command = [sys.executable, "-m", "dst.cli"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments in (["train", folder / "own.yaml", "--dir", where], ["resume", where]):
        # The second runs elsewhere: the saved config finds the files all the same.
        result = subprocess.run(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    summary = json.loads((where / "summary.json").read_text())
    assert 0 <= summary["accuracy"] <= 1
    masks = dst.load_masks(where / "masks-final.safetensors")
    assert {path: int(m.sum()) for path, m in masks.items()} == {
        "hidden/kernel": 12,
        "out/kernel": 12,
    }
    saved = YAML(typ="safe").load((where / "config.yaml").read_text())
    assert saved["model"] == {"import": f"{folder / 'own_nets.py'}:Small", "width": 12}
    assert saved["data"]["noise"] == 0.05 and saved["data"]["turns"] == 1.0
    assert saved["objective"]["gamma"] == 1.5
    assert saved["loggers"] == [{"import": f"{folder / 'own_mine.py'}:Lines", "file": "own.txt"}]
    assert (where / "own.txt").read_text().splitlines()[0] == "10 train"
    report = (where / "report.html").read_text()
    assert "Small" in report and "Churn" in report


def test_the_pieces_are_the_users_own(folder):
    found = config.load(folder / "own.yaml")
    pieces = setup.make(found)
    assert [t for t in range(40) if pieces.fires(t)] == [10, 20, 30]
    assert {x.path for x in pieces.plan.leaves if x.sparse} == {"hidden/kernel", "out/kernel"}
    assert config.parse(config.to_dict(found), folder / "own.yaml") == found


def test_an_optimizer_of_optax_takes_the_schedule_and_the_decay(folder):
    lamb = "optimizer={'import': 'optax:lamb', 'learning_rate': 0.01, 'warmup': 4, 'b1': 0.8}"
    found = config.load(folder / "own.yaml", [lamb, "optimizer.weight_decay=0.1"])
    settings = found.optimizer.value
    assert (settings.b1, settings.b2, settings.weight_decay, settings.ema) == (
        0.8,
        0.999,
        0.1,
        None,
    )
    assert config.parse(config.to_dict(found), folder / "own.yaml") == found

    params = {"w": jnp.full((3, 2), 0.5), "b": jnp.ones(2)}
    grads = {"w": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones(2)}
    rate = optimizer.learning_rate(settings, 40)
    masks = {"w": True, "b": False}
    theirs = optax.lamb(rate, b1=0.8, weight_decay=0.1, mask=masks)
    results = []
    for tx in (optimizer.make(found.optimizer, 40), theirs):
        updates, _ = tx.update(grads, tx.init(params), params)
        results.append(updates)
    jax.tree.map(np.testing.assert_array_equal, *results)


BAD = {
    "an old key": (
        "method={'name': 'rigl', 'sparsity': 0.5, 'regrown': 'zero'}",
        ["method.regrown is now called regrow_value"],
    ),
    "an old key of several meanings": (
        "method={'name': 'snip', 'sparsity': 0.5, 'floor': 2}",
        ["method.floor is now called min_active"],
    ),
    "no logger door": ("loggers=[1]", ["loggers[0]", "'import'"]),
    "no path": ("model.import=nets", ["model.import", "'module:name'", "'nets'"]),
    "no module": ("model.import=netz:Small", ["model.import", "no module 'netz'", "Python's path"]),
    "no file": ("model.import=netz.py:Small", ["model.import", "netz.py", "expected it in"]),
    "no such name": ("model.import=own_nets:Smal", ["'Smal'", "Did you mean 'Small'?"]),
    "an unknown argument": ("model.widht=3", ["model.widht", "Did you mean 'width'?"]),
    "an argument of another type": ("model.width=wide", ["model.width", "an integer", "'wide'"]),
    "a number that is none": ("data.noise=true", ["data.noise", "a finite number", "True"]),
    "both": ("model.name=mlp", ["model", "'name'", "'import'", "both"]),
    "a missing argument": ("method={'import': 'own_mine:Churn'}", ["method.sparsity is missing"]),
    "a range": ("method.sparsity=1.5", ["method.sparsity", "[0, 1)", "1.5"]),
    "no network": (
        "model={'import': 'own_nets:not_a_network'}",
        ["model.import", "nnx.Module", "int"],
    ),
    "no method": (
        "method={'import': 'own_nets:not_a_network', 'classes': 3}",
        ["method", "rule(steps)"],
    ),
    "no data set": (
        "data={'import': 'own_nets:not_a_network', 'classes': 3}",
        ["data.import", "Dataset", "int"],
    ),
    "no optimizer": (
        "optimizer={'import': 'own_nets:not_a_network', 'classes': 3, 'learning_rate': 0.1}",
        ["optimizer.import", "GradientTransformation", "int"],
    ),
    "an optimizer without a rate": (
        "optimizer={'import': 'optax:lamb'}",
        ["optimizer.learning_rate is missing"],
    ),
    "an optimizer at a bad rate": (
        "optimizer={'import': 'optax:lamb', 'learning_rate': 0}",
        ["optimizer.learning_rate", "> 0", "0"],
    ),
    "a setting of another optimizer": (
        "optimizer.nesterov=true",
        ["optimizer.nesterov is no known key of adam", "belongs to momentum"],
    ),
    "no objective": (
        "objective={'import': 'own_nets:not_a_network', 'classes': 3}",
        ["objective", "loss(model"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_door_says_what_would_fit(name, folder, capsys):
    override, parts = BAD[name]
    overrides = [override]
    if name == "both":  # in the file: an override that names another thing replaces it
        text = CONFIG.replace("model: {import", "model: {name: mlp, import")
        (folder / "own.yaml").write_text(text, encoding="utf-8")
        overrides = []
    assert (
        cli.main(["train", str(folder / "own.yaml"), *overrides, "--dir", str(folder / "x")]) == 2
    )
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert not (folder / "x").exists()


def test_a_module_that_fails_is_named(folder, capsys):
    (folder / "own_nets.py").write_text("import surely_not_installed\n", encoding="utf-8")
    assert cli.main(["train", str(folder / "own.yaml")]) == 2
    assert "needs the module 'surely_not_installed'" in capsys.readouterr().err
    (folder / "own_nets.py").write_text("1 / 0\n", encoding="utf-8")
    assert cli.main(["train", str(folder / "own.yaml")]) == 2
    assert "failed with ZeroDivisionError" in capsys.readouterr().err


def test_another_model_replaces_all_of_the_one_that_is_imported(folder):
    found = config.load(folder / "own.yaml", ["model=mlp"])
    assert found.model.name == "mlp" and found.model.value.hidden == (300, 100)
    back = config.load(
        ROOT / "configs/digits/rigl.yaml", [f"model.import={folder}/own_nets.py:Small"]
    )
    assert back.model.value.width == 16


def test_a_marked_file_is_all_that_a_registry_needs(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = (
        '@named("new", inputs="tokens")\nclass New:\n    def __init__(self, *, n: int = 3): ...\n'
    )
    (package / "new.py").write_text("from dst.core.registry import named\n\n\n" + text)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("model", "own_package")
    entry = registry["new"]
    assert entry.facts == {"inputs": "tokens"} and "own_package.new" not in sys.modules
    assert entry.load().__name__ == "New"
    (package / "other.py").write_text("from dst.core.registry import named\n\n\n" + text)
    with pytest.raises(ValueError, match=r"model 'new' stands in own_package.new and .*other"):
        list(Registry("model", "own_package"))


def test_arrays_that_do_not_fit_are_refused():
    from dst.train.data import from_arrays

    x, y = np.zeros((4, 2), np.float32), np.arange(4, dtype=np.int32)
    assert from_arrays((x, y), (x, y)).classes == 4
    with pytest.raises(ValueError, match="as many inputs as labels"):
        from_arrays((x, y[:3]), (x, y))
    with pytest.raises(ValueError, match="must be alike"):
        from_arrays((x, y), (x[:, :1], y))
