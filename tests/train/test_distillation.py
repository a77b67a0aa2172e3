"""Laws of recovery: a pruned model directory is trained by a config, beside its dense teacher."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dst
import dst.nnx
from dst import models
from dst.models.decoder import Decoder
from dst.train import Run, loop, setup
from dst.train.config import run as config
from dst.train.config.run import ConfigError
from dst.train.objectives import distillation
from tests.faults import records
from tests.training import batch, states_in

SIZES = {"width": 16, "layers": 2, "heads": 2, "hidden": 24}


def decoder(seed, **changes):
    return Decoder((16,), 256, **{**SIZES, **changes}, rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense decoder, what pruning made of it, and the masks."""
    folder = tmp_path_factory.mktemp("recovery")
    dense = decoder(0)
    models.save(folder / "dense", dense)
    pruned = models.load(folder / "dense")
    masks = dst.nnx.prune(pruned, 0.5)
    models.save(folder / "pruned", pruned)
    dst.save_masks(folder / "pruned" / "masks.safetensors", masks)
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    return folder


def recovery(folder, *overrides, **sections):
    """The config of a run on the pruned model."""
    settings = {
        "name": "recovery",
        "model": {"name": "pretrained", "path": "pruned"},
        "data": {"name": "text:text.txt", "batch_size": 4, "context": 16, "held_out": 4},
        "method": {"name": "from_masks"},
        "start": {"masks": "pruned/masks.safetensors"},
        "optimizer": {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
        "objective": {"name": "distillation", "teacher": "dense", "kl": 0.5},
        "train": {"steps": 6, "log_every": 2, "eval_every": 3, "checkpoint_every": 3},
        "mesh": {"data": 1},
    }
    file = folder / "recovery.yaml"
    file.write_text(json.dumps({**settings, **sections}), encoding="utf-8")
    return config.load(file, overrides)


@pytest.fixture(scope="module")
def run(folder):
    loop.train(recovery(folder), folder / "run")
    return folder / "run"


def test_zeros_stay_and_the_loss_falls(folder, run):
    pruned, masks = models.load(folder / "pruned"), dst.load_masks(run / "masks-final.safetensors")
    before = dict(nnx.to_flat_state(nnx.state(pruned, nnx.Param)))
    trained = Run(run).model(attach_masks=False)
    for path, variable in nnx.to_flat_state(nnx.state(trained, nnx.Param)):
        name, value = "/".join(map(str, path)), np.asarray(variable.get_value())
        assert (value != np.asarray(before[path].get_value())).any(), name
        if name in masks:
            assert not value[~masks[name]].any(), name
            assert masks[name].mean() == pytest.approx(0.5, abs=0.01)
    losses = [x["loss"] for x in records(run) if x["kind"] == "train"]
    assert losses[-1] < losses[0]
    models.save(run / "model", trained)  # what the next command reads
    assert nnx.state(models.load(run / "model"), nnx.Param) is not None


def test_the_first_state_is_the_pruned_model(folder):
    pieces = setup.make(recovery(folder))
    pruned = models.load(folder / "pruned")
    tokens = jnp.arange(32).reshape(2, 16)
    state = pieces.begin()
    model = models.load(folder / "pruned")
    nnx.update(model, state.params)
    np.testing.assert_array_equal(model(tokens), pruned(tokens))


def test_the_loss_is_that_of_numpy(folder):
    teacher, student = (models.load(folder / x) for x in ("dense", "pruned"))
    objective = distillation.Distillation(
        str(folder / "dense"), cross_entropy=0.5, kl=2.0, hidden=3.0, temperature=2.0
    )
    tokens = jax.random.randint(jax.random.key(0), (3, 17), 0, 256)
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    total, scores = objective.loss(student, (inputs, labels), jax.random.key(0), objective.arrays)

    s, t = (np.asarray(m.hidden_states(inputs), np.float64) for m in (student, teacher))
    square_head = sum(
        ((a - b) ** 2).mean() / ((b**2).mean() + 2.0**-7) for a, b in zip(s, t, strict=True)
    )

    def log_softmax(x):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    ours, theirs = (np.asarray(m(inputs), np.float64) for m in (student, teacher))
    cross_entropy = -np.take_along_axis(log_softmax(ours), np.asarray(labels)[..., None], -1).mean()
    p, q = log_softmax(theirs / 2), log_softmax(ours / 2)
    kl = 4 * (np.exp(p) * (p - q)).sum(-1).mean()
    assert float(scores["cross_entropy"]) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(scores["square_head"]) == pytest.approx(square_head, rel=1e-4)
    assert float(scores["kl"]) == pytest.approx(kl, rel=1e-3, abs=1e-6)
    expected = 0.5 * cross_entropy + 2 * kl + 3 * square_head
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(scores["loss"]) == float(total)


def test_the_teacher_is_an_argument_of_the_programs_and_no_constant_in_them(folder):
    """As a constant, its 8,528 weights alone would have twice as many hexadecimal digits."""
    pieces = setup.make(recovery(folder))
    state, data = pieces.begin(), batch(pieces, 0)
    text = pieces.step.func.lower(state, *data, topology=False, **pieces.step.keywords).as_text()
    constants = re.findall(r'dense<"0x([0-9A-F]*)"', text)
    assert max(map(len, constants), default=0) < 2000


def test_a_teacher_gets_no_gradient_and_is_its_own_best_student(folder):
    objective = distillation.Distillation(str(folder / "dense"), cross_entropy=0.0, kl=1.0)
    batch = jnp.zeros((1, 16), jnp.int32), jnp.zeros((1, 16), jnp.int32)

    def loss(model):
        return objective.loss(model, batch, jax.random.key(0), objective.arrays)[0]

    value, grads = nnx.value_and_grad(loss)(models.load(folder / "dense"))
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads)) < 1e-5


def test_the_worked_table_of_square_head():
    student = jnp.array([[[[1.0, 2.0]], [[0.0, 1.0]]]])
    teacher = jnp.array([[[[1.5, 2.0]], [[0.0, 2.0]]]])
    assert float(distillation.square_head(student, teacher, 0)) == pytest.approx(0.12195122)
    found = distillation.square_head(student, teacher, 2.0**-7)
    assert float(found) == pytest.approx(0.12158055)


@pytest.mark.parametrize("scan", [False, True])
def test_hidden_states_lead_to_the_logits(scan):
    model, tokens = decoder(0, scan=scan), jnp.arange(16)[None]
    states = model.hidden_states(tokens)
    assert states.shape == (2, 1, 16, 16)
    np.testing.assert_allclose(model.logits(states[-1]), model(tokens), rtol=1e-5, atol=1e-6)


def test_only_what_is_trainable_moves_and_has_moments(folder):
    settings = recovery(folder, "optimizer.trainable=['**/scale']", "objective=null")
    loop.train(settings, folder / "norms")
    pruned = models.load(folder / "pruned")
    last = states_in(folder / "norms")[6]
    for path, variable in nnx.to_flat_state(nnx.state(pruned, nnx.Param)):
        leaf = last.params
        for key in path:
            leaf = leaf[key if key in leaf else str(key)]
        moved = (np.asarray(leaf) != np.asarray(variable.get_value())).any()
        assert moved == (path[-1] == "scale"), path
    trained = sum(x.size for x in jax.tree.leaves(nnx.state(pruned, nnx.Param)) if x.ndim == 1)
    moments = sum(x.size for x in jax.tree.leaves(last.opt_state.inner_state) if x.ndim)
    assert moments == 2 * trained


@pytest.mark.evidence
def test_low_rank_changes_alone_are_trained_and_merged(folder):
    overrides = ["model.lora=mask", "model.rank=2", "optimizer.trainable=['**/lora_*']"]
    loop.train(recovery(folder, *overrides, "optimizer.weight_decay=0"), folder / "lora")
    trained = Run(folder / "lora").model(attach_masks=False)
    merged, start = dst.nnx.merge_lora(trained), models.load(folder / "pruned")
    before = dict(nnx.to_flat_state(nnx.state(start, nnx.Param)))
    masks = dst.load_masks(folder / "pruned" / "masks.safetensors")
    for path, variable in nnx.to_flat_state(nnx.state(merged, nnx.Param)):
        name, value = "/".join(map(str, path)), np.asarray(variable.get_value())
        old = np.asarray(before[path].get_value())
        if name not in masks:
            np.testing.assert_array_equal(value, old)
            continue
        assert not value[~masks[name]].any() and (value != old)[masks[name]].any(), name
    tokens = jnp.arange(16)[None]
    np.testing.assert_allclose(merged(tokens), trained(tokens), rtol=1e-4, atol=1e-5)
    models.save(folder / "recovered", merged)
    np.testing.assert_array_equal(models.load(folder / "recovered")(tokens), merged(tokens))


BAD = {
    "no such directory": (["model.path=nowhere"], "model.path.*nowhere"),
    "a longer context": (["data.context=17"], "data.context must be at most 16"),
    "no such teacher": (["objective.teacher=nowhere"], "objective.teacher.*nowhere"),
    "a pattern of nothing": (["optimizer.trainable=nothing"], "optimizer.trainable.*'nothing'"),
    "a rank above a side": (["model.lora=mask", "model.rank=99"], "rank must be an integer"),
    "all weights are zero": (
        ["objective={'kl': 0, 'hidden': 0, 'cross_entropy': 0}"],
        "one of cross_entropy, kl and hidden",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_before_anything_is_written(folder, case, tmp_path):
    overrides, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        loop.train(recovery(folder, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pretrained_network_is_one_of_text(folder):
    with pytest.raises(ValueError, match=r"pretrained needs inputs \[.*\], got \[2, 3\]"):
        models.pretrained_decoder((2, 3), 10, path=str(folder / "dense"), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="knows 256. Use the tokenizer of the model"):
        models.pretrained_decoder((16,), 257, path=str(folder / "dense"), rngs=nnx.Rngs(0))


def test_a_teacher_of_another_shape_is_refused(folder):
    models.save(folder / "wide", decoder(0, width=32))
    objective = distillation.Distillation(str(folder / "wide"))
    batch = jnp.zeros((1, 16), jnp.int32), jnp.zeros((1, 16), jnp.int32)
    with pytest.raises(ValueError, match=r"its states are \[2, 1, 16, 32\]"):
        objective.loss(models.load(folder / "dense"), batch, jax.random.key(0), objective.arrays)
