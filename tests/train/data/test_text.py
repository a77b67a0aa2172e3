"""Laws of text: what is read, how it is split and cut, and what a run on it records."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
from dst.train import evaluation, loop, optimizer, setup
from dst.train import state as states
from dst.train.config import run as config
from dst.train.data import dataset, stdlib, stream
from dst.train.objectives.next_token import NextToken
from dst.train.records import checkpoint, loggers, run_dir
from tests.training import assert_same, small

STDLIB = Path(sysconfig.get_paths()["stdlib"])
TINY = (
    "model={'name': 'decoder', 'width': 8, 'layers': 1, 'heads': 2, 'hidden': 8}",
    "data={'name': 'stdlib', 'batch_size': 4, 'context': 8, 'held_out': 5}",
    "train.steps=6",
    "train.log_every=2",
    "train.eval_every=6",
    "train.checkpoint_every=3",
    "method.every=3",
    "method.decay=constant",
    # What is quick to compile.
    "optimizer.name=sgd",
    "sparsify.select='**/up/kernel'",
)


def test_what_is_left_out_is_left_out(tmp_path):
    for name in (
        "a.py",
        "pack/b.py",
        "pack/test/c.py",
        "pack/tests/d.py",
        "site-packages/e.py",
        "config-3.11-x86_64-linux-gnu/f.py",
        "encodings/g.py",
        "idlelib/h.py",
        "pack/__pycache__/i.cpython.pyc",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "pack/data.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert stdlib.modules(tmp_path) == {"a.py": b"a.py", "pack/b.py": b"pack/b.py"}


def test_without_sources_the_error_says_where(tmp_path):
    with pytest.raises(ValueError, match=f"standard library in {tmp_path}, found none"):
        stdlib.modules(tmp_path)


def test_the_split_is_disjoint_deterministic_and_about_one_in_twenty():
    found = stdlib.modules(STDLIB)
    assert {"argparse.py", "asyncio/base_events.py", "json/decoder.py"} <= found.keys()
    assert list(found) == sorted(found)
    held_out = {p for p in found if stdlib.is_held_out(p)}
    assert 0.02 < len(held_out) / len(found) < 0.09
    train, test = stdlib.split(found)
    assert len(train) + len(test) == sum(map(len, found.values()))
    for module, text in found.items():
        if len(text) > 200:
            assert (text in test) == (module in held_out) != (text in train)
    # Computed with sha256sum and bc: a module is on the same side on every machine.
    assert stdlib.is_held_out("functools.py") and not stdlib.is_held_out("argparse.py")


def test_validation_modules_come_from_the_training_side():
    found = stdlib.modules(STDLIB)
    train, test = map(len, stdlib.split(found))
    kept, validation = stdlib.split(found, 0.2)
    assert len(kept) + len(validation) == train
    assert 0.1 < len(validation) / train < 0.3
    for module, text in found.items():
        if stdlib.is_held_out(module) and len(text) > 200:
            assert text not in validation and text not in kept
    assert stdlib.split(found, 0.2) == (kept, validation)
    settings = stdlib.Stdlib(held_out=4, validation=0.2)
    first, _ = settings.load("stdlib").test.take(np.arange(1))
    assert bytes(first[0].astype(np.uint8)) in validation
    with pytest.raises(ValueError, match=r"validation must be a fraction in \(0, 1\), got 1.5"):
        stdlib.Stdlib(validation=1.5)


def test_pieces_show_every_byte_once_and_its_successor():
    text = bytes(range(100, 153))
    pieces = dataset.windows(np.frombuffer(text, np.uint8), 8)
    inputs, labels = pieces.take(np.arange(len(pieces)))
    assert inputs.shape == labels.shape == (6, 8)
    np.testing.assert_array_equal(inputs.ravel(), list(text[:48]))
    np.testing.assert_array_equal(labels.ravel(), list(text[1:49]))


def _dataset(**changes):
    pieces = dataset.windows(np.arange(200, dtype=np.uint8), 8)
    return dataset.Dataset(pieces, pieces, (8,), 256, "next-token", **changes)


def test_batches_are_functions_of_seed_and_step_and_epochs_show_all_pieces():
    def first_bytes(seed, steps):
        source = stream.Source(_dataset(), seed, 6, np.arange(6))
        return [source.batch(step)[0][:, 0] for step in steps]

    found = first_bytes(3, range(8))
    np.testing.assert_array_equal(found, first_bytes(3, reversed(range(8)))[::-1])
    assert not np.array_equal(found[0], first_bytes(4, [0])[0])
    for epoch in np.reshape(found, (2, 24)):
        assert sorted(epoch) == list(range(0, 192, 8))


def next_token(logits, labels):
    """The metrics of logits that stand for a network."""
    batch = (logits, jnp.asarray(labels))
    return NextToken().loss(lambda inputs: inputs, batch, jax.random.key(0))[1]


def test_a_uniform_model_needs_eight_bits_per_byte():
    labels = np.random.default_rng(0).integers(0, 256, (3, 7), dtype=np.int32)
    scores = next_token(jnp.zeros((3, 7, 256)), labels)
    assert float(scores["bits_per_byte"]) == pytest.approx(8, rel=1e-6)
    assert float(scores["loss"]) == pytest.approx(np.log(256), rel=1e-6)


def test_bits_per_byte_are_the_length_of_the_best_code():
    # Of a source that is known, the mean code length is its entropy: here 1.75 bits.
    share = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    labels = np.repeat(np.arange(4, dtype=np.int32), [4, 2, 1, 1])
    logits = jnp.broadcast_to(jnp.log(jnp.float32(share))[None], (8, 4))
    scores = next_token(logits, labels)
    assert float(scores["bits_per_byte"]) == pytest.approx(1.75, rel=1e-6)
    assert float(scores["accuracy"]) == 0.5


class Constant(nnx.Module):
    """The same logits everywhere."""

    def __init__(self):
        self.logits = nnx.Param(jnp.linspace(-1, 1, 256))

    def __call__(self, tokens):
        return jnp.broadcast_to(self.logits[...], (*tokens.shape, 256))


def test_evaluation_in_parts_is_the_mean_over_all_of_them():
    model = Constant()
    params = states.parameters(model)
    masks = dst.sparsify(optax.identity(), dst.Dense()).init(params)
    state = states.TrainState(params, masks, None, {}, jnp.int32(0))
    here = jax.tree.map(lambda x: x.sharding, state.params)
    network = states.modes(model, here, "float32")
    parts = [jax.device_put(list(stream.testing(_dataset(at_once=n)))) for n in (10, 1024)]
    assert [len(x) for x in parts] == [3, 1]
    found = [evaluation.make(network, NextToken(), lambda x=x: x)(state) for x in parts]
    for name, value in found[0].items():
        assert value == pytest.approx(found[1][name], rel=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("text")
    loop.train(small(folder, *TINY), folder / "run")
    return folder / "run"


def test_a_run_on_text_resumes_bit_for_bit(finished, tmp_path):
    run, saved = tmp_path / "run", run_dir.CHECKPOINTS
    shutil.copytree(finished, run)
    shutil.rmtree(run / saved / f"{6:09d}")
    loop.resume(run)
    like = setup.make(config.load(run / run_dir.CONFIG)).begin()
    again, straight = (checkpoint.restore(x / saved, 6, like) for x in (run, finished))
    assert int(straight.opt_state.topology.done) == 1
    assert_same(again, straight)


def test_the_saved_config_pins_the_text(finished):
    text = stdlib.load(stdlib.Stdlib(context=8)).identity
    saved = config.load(finished / run_dir.CONFIG)
    assert {"python": saved.data.value.python, "sha256": saved.data.value.sha256} == text
    with pytest.raises(setup.SetupError, match="Use that Python"):
        setup.make(config.load(finished / run_dir.CONFIG, ["data.sha256='0'"]))


def test_records_and_summary_tell_bits_per_byte(finished):
    lines = loggers.read(finished / run_dir.METRICS)
    scores = [x for x in lines if x["kind"] in ("train", "eval")]
    assert len(scores) == 4
    for line in scores:
        assert line["bits_per_byte"] == pytest.approx(line["loss"] / np.log(2), rel=1e-5)
    final = json.loads((finished / run_dir.SUMMARY).read_text())
    assert final["bits_per_byte"] == lines[-1]["bits_per_byte"]


def test_the_trainer_knows_which_layers_are_stacked(tmp_path):
    made = setup.make(small(tmp_path, *TINY, "model.layers=3", "model.scan=true"))
    (up,) = [x for x in made.plan.leaves if x.path.endswith("up/kernel")]
    assert (up.shape, up.stacked, up.layer_shape, up.sparse) == ((3, 8, 8), 1, (8, 8), True)


def test_scales_of_stacked_layers_do_not_decay():
    params = {"blocks": {"norm": np.ones((2, 3), np.float32), "up": np.ones((2, 3, 3), np.float32)}}
    settings = {"name": "adamw", "learning_rate": 1.0, "weight_decay": 0.5}
    section = config.OPTIMIZER.read(settings, "optimizer")
    tx = optimizer.make(section, 10, {"blocks/**": 1})
    updates, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    assert (np.asarray(updates["blocks"]["norm"]) == 0).all()
    assert (np.asarray(updates["blocks"]["up"]) == -0.5).all()
