"""The source code of Python's standard library, byte by byte: text that every machine has."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.train.data import splits
from dst.train.data.dataset import Dataset, windows

# Tests; tables and prose, which nobody wrote as programs; what only some installations have.
_LEFT_OUT = {"test", "tests", "encodings", "pydoc_data"}
_LEFT_OUT |= {"idlelib", "lib2to3", "turtledemo", "ensurepip"}
_OF_THIS_MACHINE = ("_sysconfigdata", "sitecustomize", "usercustomize")
_HELD_OUT = 20  # one module in so many
_NUMBERS = 2**256  # that a hash has
_AT_ONCE = 8192  # bytes that are evaluated together


@named("stdlib", inputs="tokens")
@dataclass(frozen=True)
class Stdlib:
    """The source code of Python's standard library, about 9 MB; the next byte is predicted.

    One module in twenty is held out for evaluation, chosen by a hash of its name. The text is that
    of the Python that runs the training: runs are comparable only where `sha256` is the same.

    Attributes:
      batch_size: pieces of text per optimizer update, over all micro-batches and devices.
      context: bytes per piece; also the longest sequence that the model sees.
      held_out: pieces of held-out modules that every evaluation reads, evenly spread.
      validation: fraction of the training modules, in (0, 1), that is evaluated in place of the
        held-out ones: to choose settings. Null: the held-out modules.
      python: version of the text; null: the one that runs. The saved config has it.
      sha256: of the text; a run whose text has another one is refused. Null: any.
    """

    batch_size: int = 32
    context: int = 256
    held_out: int = 256
    validation: float | None = None
    python: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "context", "held_out"):
            checks.integer(name, getattr(self, name), at_least=1)
        splits.check("validation", self.validation)

    def load(self, name: str) -> Dataset:
        """The data set."""
        return load(self)


def load(settings: Stdlib) -> Dataset:
    """Text to train on and held-out text, cut into pieces.

    Raises:
      ValueError: no source code on this machine, another text than the settings name, or settings
        that ask for more text than there is.
    """
    train, test = split(modules(Path(sysconfig.get_paths()["stdlib"])), settings.validation)
    texts = [np.frombuffer(x, np.uint8) for x in (train, test)]
    identity = {
        "python": platform.python_version(),
        "sha256": hashlib.sha256(b"%d " % len(train) + train + test).hexdigest(),
    }
    if settings.sha256 not in (None, identity["sha256"]):
        raise ValueError(
            f"data.sha256: this run is of the text with SHA-256 {settings.sha256[:12]}... (Python "
            f"{settings.python}), found {identity['sha256'][:12]}... (Python "
            f"{identity['python']}). Use that Python; or set data.sha256=null and train on what is "
            "here, which gives other figures."
        )
    pieces = windows(texts[1], settings.context)
    if settings.held_out > len(pieces):
        raise ValueError(
            f"data.held_out must be at most {len(pieces)}, the pieces of {settings.context} bytes "
            f"in {len(test)} held-out bytes, got {settings.held_out}."
        )
    return Dataset(
        train=windows(texts[0], settings.context),
        test=pieces.spread(settings.held_out),
        shape=(settings.context,),
        classes=256,
        objective="next-token",
        dtype=np.int32,
        at_once=max(_AT_ONCE // settings.context, 1),
        identity=identity,
    )


@lru_cache(maxsize=4)
def modules(root: Path) -> dict[str, bytes]:
    """The text of every module under a directory by its path, sorted.

    Left out are tests, what is no package, what was installed later (``site-packages``), tables
    and prose, and files that an installation writes for its machine.

    Raises:
      ValueError: there is none.
    """
    sources = {path.relative_to(root).as_posix(): path.read_bytes() for path in _files(root)}
    if not sources:
        raise ValueError(
            f"data: expected the source code of Python's standard library in {root}, found none. "
            "Use a Python that was installed with its sources."
        )
    return dict(sorted(sources.items()))


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            # A package is an identifier: not site-packages, not config-3.11-x86_64-linux-gnu.
            if path.name.isidentifier() and path.name not in _LEFT_OUT:
                yield from _files(path)
        elif path.suffix == ".py" and not path.name.startswith(_OF_THIS_MACHINE):
            yield path


def is_held_out(module: str) -> bool:
    """Whether a module is for evaluation; the same in every version of Python."""
    return _number(module) % _HELD_OUT == 0


def split(sources: dict[str, bytes], validation: float | None = None) -> tuple[bytes, bytes]:
    """Modules to train on and modules to evaluate on, each as one text.

    Args:
      sources: the text of every module.
      validation: fraction of the training modules, in (0, 1), chosen by a hash of their names;
        they are evaluated in place of the held-out modules. None: the held-out modules.
    """
    train = {path: text for path, text in sources.items() if not is_held_out(path)}
    if validation is None:
        test = sources.keys() - train.keys()
    else:
        test = {path for path in train if _number(f"validation {path}") < validation * _NUMBERS}
    sides = (train.keys() - test, test)
    kept, held = (b"".join(x for p, x in sources.items() if p in side) for side in sides)
    return kept, held


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)
