"""Tokenizers of directories and of GGUF files."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as kinds

from dst import models
from tests.models.pretrained.checkpoints import LLAMA, directory, gguf_file, llama

TEXT = "Ten 2024 tokens, don't they?  Été\n\tand <|end|> then"


@pytest.fixture(scope="module")
def trained():
    """A tokenizer of bytes and merges, as the models of the family have it."""
    made = Tokenizer(kinds.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT] * 9, trainer)
    return made


def _file(path, trained, **changes):
    found = json.loads(trained.to_str())["model"]
    words = sorted(found["vocab"], key=found["vocab"].get)
    config = {**LLAMA, "vocab_size": len(words), "eos_token_id": 0}
    merges = [" ".join(x) for x in found["merges"]]
    types = [3] + [1] * (len(words) - 1)
    entries = {"words": words, "merges": merges, "types": types, **changes}
    return gguf_file(path, config, llama(config), **entries)


def test_a_tokenizer_of_gguf_metadata_gives_the_tokens_of_the_one_it_was_made_of(trained, tmp_path):
    found = models.tokenizer(_file(tmp_path / "model.gguf", trained))
    assert found.encode(TEXT).ids == trained.encode(TEXT).ids
    assert found.decode(found.encode(TEXT).ids, skip_special_tokens=False) == TEXT
    assert found.encode("<|end|>").ids == [0]


def test_a_tokenizer_of_a_directory_neither_pads_nor_cuts(trained, tmp_path):
    other = Tokenizer.from_str(trained.to_str())
    other.enable_padding(length=100)
    other.enable_truncation(3)
    path = directory(tmp_path / "in", LLAMA, llama(LLAMA))
    other.save(str(path / "tokenizer.json"))
    assert models.tokenizer(path).encode(TEXT).ids == trained.encode(TEXT).ids


def test_a_saved_directory_has_the_tokenizer_of_directory_or_file(trained, tmp_path):
    file = _file(tmp_path / "model.gguf", trained)
    models.save(tmp_path / "one", models.load(file), tokenizer=file)
    settings = json.loads((tmp_path / "one" / "tokenizer_config.json").read_text())
    assert settings == {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    models.save(tmp_path / "two", models.load(tmp_path / "one"), tokenizer=tmp_path / "one")
    for folder in ("one", "two"):
        found = models.tokenizer(tmp_path / folder)
        assert found.encode(TEXT).ids == trained.encode(TEXT).ids
    for name in ("tokenizer.json", "tokenizer_config.json"):
        one, two = ((tmp_path / x / name).read_bytes() for x in ("one", "two"))
        assert one == two


@pytest.mark.parametrize("changes", [{"model": "llama"}, {"pre": "unheard-of"}])
def test_other_kinds_of_tokenizers_are_refused(changes, trained, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.(model|pre) must be"):
        models.tokenizer(_file(tmp_path / "model.gguf", trained, **changes))


def test_a_broken_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json holds no tokenizer"):
        models.tokenizer(tmp_path)
