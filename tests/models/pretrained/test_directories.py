"""Directories and GGUF files: what is loaded is what NumPy computes; what is saved has its bits."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from dst import models
from tests.models.pretrained.checkpoints import (
    BERT,
    DTYPES,
    LLAMA,
    LLAMA3,
    bert,
    directory,
    gguf_file,
    llama,
)
from tests.reference.llama import forward
from tests.runs import QUICK

TOKENS = np.random.default_rng(0).integers(0, 11, 9)


def _logits(model):
    graph, state = nnx.split(model)
    program = jax.jit(lambda s, x: nnx.merge(graph, s)(x), compiler_options=QUICK)
    return np.asarray(program(state, TOKENS[None]))[0]


def _weights(path):
    """All tensors of a directory."""
    return {n: x for file in path.glob("*.safetensors") for n, x in load_file(file).items()}


def _same_bits(one, two):
    assert one.keys() == two.keys()
    for name, x in one.items():
        assert x.dtype == two[name].dtype and x.tobytes() == two[name].tobytes(), name


CHANGES = {
    "grouped": {},
    "untied": {"tie_word_embeddings": False},
    "plain": {"head_dim": None, "num_key_value_heads": 4, "hidden_size": 16},
    "qwen2": {"model_type": "qwen2"},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "llama3": {"rope_scaling": LLAMA3, "head_dim": 16},
    "relu": {"hidden_act": "relu"},
}


def _case(changes):
    config = {**LLAMA, **CHANGES[changes]}
    shaped = {n: x for n, x in config.items() if x is not None}
    return config, llama(shaped)


@pytest.mark.parametrize("changes", CHANGES)
def test_a_decoder_computes_what_numpy_does_with_the_tensors(changes, tmp_path):
    config, tensors = _case(changes)
    model = models.load(directory(tmp_path / "in", config, tensors))
    expected = forward(tensors.get, config, TOKENS)
    np.testing.assert_allclose(_logits(model), expected, rtol=1e-4, atol=1e-4)


def test_entries_of_rotation_may_stand_in_either_of_two_places(tmp_path):
    config, tensors = _case("llama3")
    new = {n: x for n, x in config.items() if n not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = {**LLAMA3, "rope_theta": config["rope_theta"]}
    one = models.load(directory(tmp_path / "old", config, tensors))
    two = models.load(directory(tmp_path / "new", new, tensors))
    np.testing.assert_array_equal(_logits(one), _logits(two))


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("scan", [False, True])
def test_load_save_load_keeps_every_bit_and_entry(changes, scan, tmp_path):
    config, tensors = _case(changes)
    model = models.load(directory(tmp_path / "in", config, tensors), scan=scan)
    models.save(tmp_path / "out", model)
    _same_bits(tensors, _weights(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    kept = {n: x for n, x in config.items() if x is not None}
    assert {n: written[n] for n in kept} == kept and written["torch_dtype"] == "float32"
    models.save(tmp_path / "again", models.load(tmp_path / "out"))
    _same_bits(tensors, _weights(tmp_path / "again"))


def test_stacked_blocks_compute_what_the_list_does(tmp_path):
    path = directory(tmp_path / "in", LLAMA, llama(LLAMA))
    one, two = models.load(path), models.load(path, scan=True)
    np.testing.assert_allclose(_logits(one), _logits(two), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("letters", DTYPES)
def test_weights_keep_their_type_unless_another_is_asked_for(letters, tmp_path):
    tensors = llama(LLAMA, DTYPES[letters])
    model = models.load(directory(tmp_path / "in", LLAMA, tensors))
    models.save(tmp_path / "out", model)
    _same_bits(tensors, _weights(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["torch_dtype"] == np.dtype(DTYPES[letters]).name
    wide = models.load(tmp_path / "in", dtype="float32")
    assert {x.dtype for x in jax.tree.leaves(nnx.state(wide))} == {jnp.dtype("float32")}
    expected = forward(lambda n: tensors.get(n), LLAMA, TOKENS)
    np.testing.assert_allclose(_logits(wide), expected, rtol=1e-4, atol=1e-4)


def test_several_files_and_an_index_are_one_model(tmp_path):
    tensors = llama(LLAMA)
    model = models.load(directory(tmp_path / "in", LLAMA, tensors, shards=3))
    models.save(tmp_path / "out", model, shard=2000)
    files = sorted(x.name for x in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    _same_bits(tensors, _weights(tmp_path / "out"))
    np.testing.assert_array_equal(_logits(models.load(tmp_path / "out")), _logits(model))


def test_a_tied_table_is_written_once_and_read_where_it_is_written_twice(tmp_path):
    tensors = llama(LLAMA)
    twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    models.save(tmp_path / "out", models.load(directory(tmp_path / "in", LLAMA, twice)))
    _same_bits(tensors, _weights(tmp_path / "out"))
    twice["lm_head.weight"] = twice["lm_head.weight"] + 1
    with pytest.raises(ValueError, match="true, but model.embed_tokens.weight and lm_head.weight"):
        models.load(directory(tmp_path / "other", LLAMA, twice))


def test_a_decoder_of_ones_own_is_saved_and_loaded(tmp_path):
    model = models.Decoder(
        (16,), 11, width=16, layers=2, heads=4, hidden=24, tied=False, rngs=nnx.Rngs(0)
    )
    models.save(tmp_path / "out", model)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = forward(_weights(tmp_path / "out").get, config, TOKENS)
    np.testing.assert_allclose(_logits(model), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(_logits(model), _logits(models.load(tmp_path / "out")))


@pytest.mark.parametrize("form", ["plain", "prefixed", "first"])
def test_an_encoder_is_loaded_and_saved_whatever_form_its_names_have(form, tmp_path):
    tensors = bert(BERT)
    extra = {"embeddings.position_ids": np.arange(16)[None]}
    named = {**tensors, **extra}
    if form == "prefixed":
        named = {f"bert.{n}": x for n, x in named.items()}
        named["cls.predictions.bias"] = np.zeros(11, np.float32)
    if form == "first":
        of = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, old in of.items():
            named = {n.replace(new, old): x for n, x in named.items()}
    model = models.load(directory(tmp_path / "in", BERT, named))
    models.save(tmp_path / "out", model)
    _same_bits(tensors, _weights(tmp_path / "out"))
    hidden = model(jnp.asarray(TOKENS)[None])
    assert hidden.shape == (1, 9, 12) and model.pool(hidden).shape == (1, 12)


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_is_the_directory_that_it_was_made_of(tied, tmp_path):
    config = {**LLAMA, "tie_word_embeddings": tied}
    tensors = llama(config)
    one = models.load(directory(tmp_path / "in", config, tensors))
    two = models.load(gguf_file(tmp_path / "model.gguf", config, tensors))
    np.testing.assert_array_equal(_logits(one), _logits(two))
    models.save(tmp_path / "out", two)
    _same_bits(tensors, _weights(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {n: written[n] for n in config} == config
