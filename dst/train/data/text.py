"""Text files, byte by byte or in the tokens of a tokenizer."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import checks, extras
from dst.core.registry import named
from dst.train.data import files
from dst.train.data.dataset import Dataset, windows

_AT_ONCE = 8192  # bytes or tokens that are evaluated together
_BYTES = 256  # different ones


@named("text:*", inputs="tokens", path=True, files=("tokenizer",))
@dataclass(frozen=True)
class Text:
    """Text files: `text:book.txt`, `text:corpus/**/*.txt`; the next byte or token is predicted.

    Of several files, whole ones are held out for evaluation, chosen by a hash of their names; of a
    single one, its end. Files follow each other in the order of their names.

    Attributes:
      batch_size: pieces of text per optimizer update, over all micro-batches and devices.
      context: bytes or tokens per piece; also the longest sequence that the model sees.
      test: fraction of the bytes that is held out, in (0, 1). Of several files at most so much, but
        at least one file.
      held_out: pieces of held-out text that every evaluation reads, evenly spread; null: all.
      tokenizer: file of a tokenizer, as the package `tokenizers` writes it (`tokenizer.json`);
        null: bytes.
      sha256: of the text and the tokenizer; a run on others is refused. Null: any. The saved config
        has it.
    """

    batch_size: int = 32
    context: int = 256
    test: float = 0.05
    held_out: int | None = 256
    tokenizer: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "context", "held_out"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), at_least=1)
        if not 0 < self.test < 1:
            raise ValueError(f"test must be a fraction in (0, 1), got {self.test!r}.")

    def load(self, name: str, kind: str | None = None) -> Dataset:
        """The data set ``text:pattern``."""
        return load(name.removeprefix("text:"), self)


def load(pattern: str, settings: Text) -> Dataset:
    """Text to train on and held-out text, cut into pieces.

    Raises:
      ValueError: no such file, text that is too short, that no tokenizer can read, or other text
        than the settings pin.
    """
    texts = read(pattern)
    sides = split(texts, settings.test, pattern)
    encoder = None if settings.tokenizer is None else Encoder(settings.tokenizer)
    sha256 = hashlib.sha256(repr([sorted(x) for x in sides]).encode())
    for content in (*texts.values(), *([encoder.content] if encoder else [])):
        sha256.update(b"%d " % len(content) + content)
    files.check(sha256.hexdigest(), settings.sha256, pattern)

    parts = []
    for side in sides:
        if encoder is None:
            parts.append(np.frombuffer(b"".join(side.values()), np.uint8))
        else:
            parts.append(np.concatenate([encoder.tokens(*item) for item in side.items()]))
    train, test = (windows(x, settings.context) for x in parts)
    if not (len(train) and len(test)):
        raise ValueError(
            f"data.context must be below the length of both splits of {pattern}, "
            f"{len(parts[0])} and {len(parts[1])} {'tokens' if encoder else 'bytes'}, got "
            f"{settings.context}. Lower it, add text, or change data.test."
        )
    return Dataset(
        train=train,
        test=test if settings.held_out is None else test.spread(settings.held_out),
        shape=(settings.context,),
        classes=_BYTES if encoder is None else encoder.size,
        objective="next-token",
        dtype=np.int32,
        at_once=max(_AT_ONCE // settings.context, 1),
        units=None if encoder is None else (sum(map(len, sides[1].values())) / len(parts[1]),),
        identity={"sha256": sha256.hexdigest()},
    )


def read(pattern: str) -> dict[str, bytes]:
    """The content of files by their names, sorted: paths below the part without wildcards.

    Raises:
      ValueError: there is none.
    """
    if os.path.isdir(pattern):
        raise ValueError(
            f"data: expected files of text, found the folder {pattern}. Say which files in it: "
            f"text:{pattern}/**/*.txt."
        )
    own = sorted(x for x in glob.glob(pattern, recursive=True) if os.path.isfile(x))
    if not own and os.path.isfile(pattern):  # a name that looks like a pattern
        own = [pattern]
    if not own:
        raise ValueError(files.missing("files of text", pattern))
    root = Path(own[0]).parent
    if len(own) > 1:
        root = Path(os.path.commonpath([str(Path(x).parent) for x in own]))
    return {Path(x).relative_to(root).as_posix(): Path(x).read_bytes() for x in own}


def split(
    texts: Mapping[str, bytes], share: float, where: str
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Text to train on and text held out.

    Of a single file, its end is held out. Of several, files in the order of the SHA-256 of their
    names, as far as they fit into the share; the smallest if none does.

    Args:
      texts: by name.
      share: of the bytes.
      where: the pattern of files, for messages.
    """
    if len(texts) == 1:
        ((name, text),) = texts.items()
        first = len(text) - round(share * len(text))
        return {name: text[:first]}, {name: text[first:]}
    left = share * sum(map(len, texts.values()))
    held_out = set()
    for name in sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if 0 < len(texts[name]) <= left:
            held_out.add(name)
            left -= len(texts[name])
    if not held_out:
        full = [name for name in texts if texts[name]]
        if len(full) < 2:
            raise ValueError(f"data: {where} has {len(full)} files that are not empty, of several.")
        held_out = {min(full, key=lambda name: len(texts[name]))}
    sides: tuple[dict[str, bytes], dict[str, bytes]] = {}, {}
    for name, text in texts.items():
        sides[name in held_out][name] = text
    return sides


class Encoder:
    """A tokenizer.

    Attributes:
      content: of its file.
      size: of its vocabulary.

    Args:
      path: of a file of the package ``tokenizers``.

    Raises:
      ModuleNotFoundError: the package is not installed.
      ValueError: no such file, or no tokenizer in it.
    """

    def __init__(self, path: str):
        file = files.file(path)
        with extras.required():
            from tokenizers import Tokenizer
        self.content = file.read_bytes()
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises nothing narrower
            raise ValueError(f"data.tokenizer: {path} holds no tokenizer: {error}") from error
        self.size: int = self._tokenizer.get_vocab_size()

    def tokens(self, name: str, text: bytes) -> np.ndarray:
        """The tokens of a file, int32 ``[n]``, without special ones.

        Raises:
          ValueError: it is no UTF-8.
        """
        try:
            words = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data: a tokenizer reads UTF-8, {name} has another byte at {error.start}. Convert "
                "it, or train on bytes: data.tokenizer=null."
            ) from error
        found: Sequence[int] = self._tokenizer.encode(words, add_special_tokens=False).ids
        return np.array(found, np.int32)
