"""SmolLM2, a real language model: what it says, and that its logits are those of NumPy."""

from __future__ import annotations

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dst import models
from dst.io.checkpoints import open_directory
from tests.models.pretrained.checkpoints import GGUF_NAMES
from tests.pretrained import smollm2
from tests.reference import llama

TEXT = "The capital of France is"
# Written down from the card of the model and the metadata of the file.
CONFIG = {
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
    "rope_theta": 100_000.0,
    "rms_norm_eps": 1e-5,
}


@pytest.fixture(scope="module")
def model():
    return models.load(smollm2())


@pytest.fixture(scope="module")
def tokens():
    return np.array(models.tokenizer(smollm2()).encode(TEXT).ids)


@pytest.fixture(scope="module")
def logits(model, tokens):
    graph, state = nnx.split(model)
    run = jax.jit(lambda s, x: nnx.merge(graph, s)(x))
    return np.asarray(run(state, jnp.asarray(tokens)[None]))[0]


def test_the_first_greedy_token_is_paris(logits):
    assert models.tokenizer(smollm2()).decode([int(logits[-1].argmax())]) == " Paris"


def test_logits_are_those_of_a_second_forward_pass_in_numpy(logits, tokens):
    # It reads the file as it is: with the rows of queries and keys in the order of llama.cpp.
    found = {x.name: x for x in gguf.GGUFReader(smollm2()).tensors}

    def read(name):
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        x = found.get(name)
        return None if x is None else gguf.quants.dequantize(x.data, x.tensor_type)

    expected = llama.forward(read, CONFIG, tokens, neighbours=True)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)


def test_a_text_survives_its_tokens_and_digits_stand_alone():
    tokenizer = models.tokenizer(smollm2())
    text = "<|im_start|>user\nNaïve 1234 tokens,  don't you?\n"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.encode("12").tokens == ["1", "2"]
    assert tokenizer.encode("<|im_end|>").ids == [2]  # as the metadata of the file say


@pytest.mark.evidence
def test_a_saved_directory_has_the_same_bits_and_the_tied_table_once(model, tmp_path):
    models.save(tmp_path / "out", model, tokenizer=smollm2(), shard=200_000_000)
    names = open_directory(tmp_path / "out")
    assert len(names) == 1 + 9 * 30 + 1 and "lm_head.weight" not in names
    again = models.load(tmp_path / "out")
    before, after = (jax.tree.leaves(nnx.state(x, nnx.Param)) for x in (model, again))
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x, y)
    ids = models.tokenizer(tmp_path / "out").encode(TEXT).ids
    assert ids == models.tokenizer(smollm2()).encode(TEXT).ids
