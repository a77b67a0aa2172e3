"""The tokenizer of a pretrained model, from its directory or from the metadata of a GGUF file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import checks, extras
from dst.core.files import write_json

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_CONTROL, _USER = 3, 4  # types of tokens in GGUF files
# How llama.cpp cuts text before it is joined into tokens, by tokenizer.ggml.pre: whether digits are
# cut one by one, and the expression; None: that of GPT-2.
_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {
    "gpt-2": (False, None),
    "smollm": (True, None),
    "llama-bpe": (False, _LLAMA),
    "qwen2": (False, _LLAMA.replace(r"\p{N}{1,3}", r"\p{N}")),
}


def tokenizer(path: str | os.PathLike[str]) -> Any:
    """The tokenizer of a pretrained model, as the package ``tokenizers`` has it.

    Padding and truncation are off, whatever the file says: ``encode(text).ids`` has every token.

    Args:
      path: of a directory with ``tokenizer.json``, or of a GGUF file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no tokenizer in it, or one of a kind that is not known here.

    Example:
      >>> tokenizer("SmolLM2-135M").encode("The capital").ids  # doctest: +SKIP
      [504, 3575]

    Checked against: the tokens of both ways for one vocabulary,
    tests/models/pretrained/test_tokenizers.py.
    """
    with extras.required():
        from tokenizers import Tokenizer
    source = Path(path)
    if source.is_file():
        return _of_gguf(source)
    file = source / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"expected tokenizer.json in {source}, found none.")
    try:
        found = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"{file} holds no tokenizer: {error}.") from error
    found.no_padding()
    found.no_truncation()
    return found


def _of_gguf(path: Path) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers import Regex as Expression

    from dst.io.gguf import open_gguf

    metadata, _ = open_gguf(path)
    kind = metadata.get("tokenizer.ggml.model")
    checks.one_of(f"{path}: tokenizer.ggml.model", kind, ("gpt2",))
    cut = metadata.get("tokenizer.ggml.pre", "gpt-2")
    checks.one_of(f"{path}: tokenizer.ggml.pre", cut, _CUTS)
    digits, expression = _CUTS[cut]
    words = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(x.split(" ", 1)) for x in metadata["tokenizer.ggml.merges"]]
    found = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if expression:
        steps.append(pre_tokenizers.Split(Expression(expression), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=expression is None))
    found.pre_tokenizer = pre_tokenizers.Sequence(steps)
    found.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(words)
    marked = zip(words, kinds, strict=True)
    special = [(w, k) for w, k in marked if k in (_CONTROL, _USER)]
    found.add_special_tokens([AddedToken(w, normalized=False) for w, k in special if k == _CONTROL])
    found.add_tokens([AddedToken(w, normalized=False) for w, k in special if k == _USER])
    return found


def end_of_text(path: str | os.PathLike[str]) -> int:
    """The token that ends a text, which language models also begin with.

    Args:
      path: of a directory with ``tokenizer_config.json`` or ``config.json``, or of a GGUF file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: none of the files names one.

    Example:
      >>> end_of_text("SmolLM2-135M")  # doctest: +SKIP
      2
    """
    source = Path(path)
    if source.is_file():
        from dst.io.gguf import open_gguf

        found = open_gguf(source)[0].get("tokenizer.ggml.eos_token_id")
    else:
        settings, model = (_json(source / x) for x in ("tokenizer_config.json", "config.json"))
        word = settings.get("eos_token")
        word = word.get("content") if isinstance(word, dict) else word
        found = tokenizer(source).token_to_id(word) if word else model.get("eos_token_id")
        found = found[0] if isinstance(found, list) and found else found
    if not isinstance(found, (int, np.integer)):
        raise ValueError(
            f"{path} names no token that ends a text: expected eos_token in tokenizer_config.json, "
            "or eos_token_id in config.json."
        )
    return int(found)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def copy(source: Path, target: Path) -> None:
    """Writes the tokenizer of a directory or of a GGUF file into another directory.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a tokenizer of a kind that is not known here.
    """
    if not source.is_file():
        tokenizer(source)  # says what is wrong with it
        for name in _FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        return
    from dst.io.gguf import open_gguf

    metadata, _ = open_gguf(source)
    tokenizer(source).save(str(target / "tokenizer.json"))
    words = metadata["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    tokens = {
        f"{short}_token": words[number]
        for name, short in names.items()
        if (number := metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens}
    if template := metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    write_json(target / "tokenizer_config.json", settings)
