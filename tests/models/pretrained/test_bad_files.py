"""Files that do not fit: messages say what was expected, found, and what to do; nothing is left."""

from __future__ import annotations

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst import models
from tests.models.pretrained.checkpoints import BERT, LLAMA, bert, directory, gguf_file, llama

DOWN = "model.layers.1.mlp.down_proj.weight"


def _load(tmp_path, config=LLAMA, tensors=None):
    return models.load(directory(tmp_path / "in", config, tensors or llama(LLAMA)))


def test_a_missing_tensor_is_named_with_its_shape(tmp_path):
    tensors = llama(LLAMA)
    del tensors[DOWN]
    with pytest.raises(ValueError, match=rf"missing: {DOWN} \[12, 20\]"):
        _load(tmp_path, tensors=tensors)


def test_an_extra_tensor_is_named_with_its_shape(tmp_path):
    tensors = {**llama(LLAMA), "model.layers.2.extra": np.zeros((3, 4), np.float32)}
    with pytest.raises(ValueError, match=r"not of this model: model.layers.2.extra \[3, 4\]"):
        _load(tmp_path, tensors=tensors)


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path):
    tensors = {**llama(LLAMA), DOWN: np.zeros((12, 21), np.float32)}
    with pytest.raises(ValueError, match=rf"{DOWN} must be \[12, 20\], found \[12, 21\]"):
        _load(tmp_path, tensors=tensors)


def test_many_wrong_tensors_are_counted(tmp_path):
    with pytest.raises(ValueError, match="missing: .*; and 4 more"):
        _load(tmp_path, {**LLAMA, "num_hidden_layers": 3})


def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path):
    tensors = {**llama(LLAMA), DOWN: np.zeros((12, 20), np.int8)}
    with pytest.raises(ValueError, match=f"type other than F32, F16, BF16: {DOWN} is I8"):
        _load(tmp_path, tensors=tensors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "model_type must be .*llama.*mistral.*qwen2.*bert.*gpt2"),
        ({"model_type": None}, "config.json must have 'model_type', found none"),
        ({"hidden_size": None}, "config.json must have 'hidden_size', found none"),
        ({"hidden_size": "12"}, "config.json: hidden_size must be an integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be .* 1000"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
        ({"hidden_act": "gelu"}, 'hidden_act must be "silu" or "relu": .* got'),
        ({"attention_bias": "yes"}, "attention_bias must be true or false"),
        ({"attention_bias": True}, "missing: .*self_attn.k_proj.bias"),
        ({"sliding_window": 4}, "sliding_window .* 4. Lower max_position_embeddings to 4"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type must be .*default.*linear.*llama3"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rotation must have 'factor'"),
        ({"quantization_config": {"bits": 4}}, "found a quantization_config"),
    ],
)
def test_entries_that_cannot_be_computed_are_refused(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        _load(tmp_path, {**LLAMA, **changes})


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_json_that_is_broken_names_its_file(text, tmp_path):
    path = directory(tmp_path / "in", LLAMA, llama(LLAMA), shards=2)
    (path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="index.json"):
        models.load(path)
    (path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        models.load(path)


def test_an_index_that_names_no_files_is_refused(tmp_path):
    path = directory(tmp_path / "in", LLAMA, llama(LLAMA), shards=2)
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"x": 3}}')
    with pytest.raises(ValueError, match="weight_map must have a file name for each tensor"):
        models.load(path)


def test_an_index_that_leaves_its_directory_or_does_not_fit_is_refused(tmp_path):
    path = directory(tmp_path / "in", LLAMA, llama(LLAMA), shards=2)
    index = path / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    for wrong, words in {
        "../part-0.safetensors": "must name files beside it",
        "part-9.safetensors": "names part-9.safetensors, which is missing",
        "part-1.safetensors": "only one of both has",
    }.items():
        moved = {**names, next(iter(names)): wrong}
        index.write_text(json.dumps({"weight_map": moved}))
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            models.load(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a directory or a GGUF file"):
        models.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"expected config\.json"):
        models.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected tokenizer\.json"):
        models.tokenizer(tmp_path)


def test_a_broken_weight_file_is_named(tmp_path):
    path = directory(tmp_path / "in", LLAMA, llama(LLAMA))
    (path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="is no safetensors file"):
        models.load(path)


class _Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_pickle_is_never_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = directory(tmp_path / "in", LLAMA, llama(LLAMA))
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle, which can run"):
        models.load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("end", [0, 3, 40, 700, -1])
def test_a_gguf_file_that_is_cut_is_no_gguf_file(end, tmp_path):
    path = gguf_file(tmp_path / "model.gguf", LLAMA, llama(LLAMA))
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match="GGUF"):
        models.load(path)


def test_gguf_files_of_other_models_are_refused(tmp_path):
    other = gguf_file(tmp_path / "other.gguf", LLAMA, llama(LLAMA), architecture="gpt2")
    with pytest.raises(ValueError, match="general.architecture must be .*llama.*gpt2"):
        models.load(other)
    factors = {**llama(LLAMA), "rope_freqs.weight": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="rotary factors"):
        models.load(gguf_file(tmp_path / "factors.gguf", LLAMA, factors))


def test_scan_is_for_decoders(tmp_path):
    path = directory(tmp_path / "in", BERT, bert(BERT))
    with pytest.raises(ValueError, match="scan is for decoders"):
        models.load(path, scan=True)


def test_what_stands_there_is_not_replaced(tmp_path):
    model = _load(tmp_path)
    with pytest.raises(FileExistsError, match="must be a new or an empty directory"):
        models.save(tmp_path / "in", model)


@pytest.mark.parametrize("wrong", ["tokenizer", "disk"])
def test_nothing_half_written_is_left(wrong, tmp_path, monkeypatch):
    model, out = _load(tmp_path), tmp_path / "new" / "out"
    if wrong == "tokenizer":
        with pytest.raises(FileNotFoundError, match="expected tokenizer"):
            models.save(out, model, tokenizer=tmp_path)
    else:
        out.parent.mkdir()
        out.with_name("out.part").write_text("a file where the directory is written")
        with pytest.raises(OSError):
            models.save(out, model)
        out.with_name("out.part").unlink()
    assert not list(out.parent.iterdir())


def test_models_and_types_that_have_no_such_directory_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one of dst.models.Decoder, dst.models.Encoder, got Lin"):
        models.save(tmp_path / "out", nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    model = _load(tmp_path)
    model.final_norm.scale.set_value(jnp.zeros(12, jnp.int8))
    with pytest.raises(ValueError, match="final_norm/scale must be one of float32, .* got int8"):
        models.save(tmp_path / "out", model)
    own = models.Decoder(
        (8,), 5, width=8, layers=1, heads=2, hidden=8, rotary_factors=(1, 2), rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match="no entry for rotary_factors"):
        models.save(tmp_path / "out", own)
    assert not (tmp_path / "out").exists()
