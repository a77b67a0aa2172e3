"""Small pretrained models with a tokenizer of bytes, and text that is long enough for them."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.models.pretrained.checkpoints import BERT, LLAMA, bert, directory, llama

WORDS = {w: i for i, w in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def decoder(path: Path, **changes: object) -> Path:
    """A LLaMA of two blocks whose tokens are bytes."""
    config = {**LLAMA, "vocab_size": len(WORDS), **changes}
    return _with_tokenizer(directory(path, config, llama(config)))


def encoder(path: Path) -> Path:
    """A BERT of two blocks whose tokens are bytes."""
    config = {**BERT, "vocab_size": len(WORDS)}
    return _with_tokenizer(directory(path, config, bert(config)))


def text(path: Path, size: int = 2000) -> Path:
    """A file of ``size`` bytes of plain text."""
    path.write_text(("The quick brown fox jumps over the lazy dog. " * (size // 45 + 1))[:size])
    return path


def _with_tokenizer(path: Path) -> Path:
    made = Tokenizer(models.BPE(vocab=WORDS, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(path / "tokenizer.json"))
    return path
