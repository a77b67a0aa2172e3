"""One run of a study: where it starts, its seeds, its judge; and what runs share."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

import dst
from dst.io.safetensors import replaced
from dst.train import loop, setup
from dst.train.config.run import Config
from dst.train.config.schema import Section
from dst.train.config.warm_start import FixedMasks, Start
from dst.train.records import run_dir
from dst.train.state import TrainState

Row = dict[str, Any]  # the figures of one round, run or task, as in the JSON file of a study
Report = Callable[[list[Row]], None]  # called with all rows so far


def check(config: Config, command: str) -> Config:
    """The config with what pins its data, if its networks can be judged.

    Args:
      config: of a study.
      command: of ``dst``, for messages.

    Raises:
      ConfigError: they have no accuracy, or the config does not fit the data, the network or the
        machine.
    """
    pieces = setup.make(config)
    if pieces.labels not in (None, "class"):
        raise setup.SetupError(
            f"dst {command} compares networks by their accuracy, and needs an objective of "
            f"classes; that of {config.data.name} is of labels of the kind {pieces.labels!r}."
        )
    return pieces.config


def until(config: Config, where: Path, step: int) -> Path:
    """Trains a run to a step and no further; returns the file of its weights there."""
    weights = where / run_dir.weights(step)
    if not weights.is_file():
        print(f"\n{where.name}")
        if (where / run_dir.CONFIG).is_file():
            loop.resume(where, until=step)
        else:
            loop.train(config, where, until=step)
    return weights


def started_from(
    config: Config,
    name: str,
    *,
    weights: Path | None = None,
    masks: Path | None = None,
    step: int = 0,
    seed: int | None = None,
) -> Config:
    """The config of a run that starts from weights, masks and a step, and keeps its last weights.
    Masks are fixed."""
    train = replace(config.train, snapshots=(config.train.steps,))
    start = Start(_text(weights), _text(masks), step)
    method = Section("from_masks", FixedMasks()) if masks else config.method
    return replace(
        config,
        name=f"{config.name}-{name}",
        start=start,
        method=method,
        train=train,
        seed=config.seed if seed is None else seed,
    )


def last_weights(config: Config, where: Path) -> Path:
    """The file that keeps the last weights of a run."""
    return where / run_dir.weights(config.train.steps)


def seed_of(seed: int, purpose: str, number: int) -> int:
    """Another seed for every purpose and number; uint32."""
    words = [seed, zlib.crc32(purpose.encode()), number]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class Judge:
    """Errors of weights by leaf path, on the test set of a config; one program for all."""

    def __init__(self, config: Config):
        self._setup = setup.make(config)
        self._state = self._setup.begin()

    def error(self, weights: Mapping[str, np.ndarray]) -> float:
        """Fraction of wrong answers."""
        return 1 - self.accuracy(weights)

    def accuracy(self, weights: Mapping[str, np.ndarray]) -> float:
        """Fraction of right answers."""
        return float(self._setup.evaluate(self._with(weights))["accuracy"])

    def halves(self, weights: Mapping[str, np.ndarray]) -> tuple[float, ...]:
        """Accuracy on the even and on the odd test examples."""
        halves = self._setup.evaluate_halves(self._with(weights))
        return tuple(float(x["accuracy"]) for x in halves)

    def _with(self, weights: Mapping[str, np.ndarray]) -> TrainState:
        return self._state._replace(params=replaced(self._state.params, weights))


def new_weights(config: Config, seed: int, path: Path) -> None:
    """Writes the initial weights of another seed, unless the file exists."""
    if not path.is_file():
        state = setup.make(replace(config, seed=seed)).begin()
        dst.save_weights(path, state.params)


def new_masks(config: Config, seed: int, path: Path) -> None:
    """Writes the masks that a method draws with another seed, unless the file exists."""
    if not path.is_file():
        state = setup.make(replace(config, seed=seed)).begin()
        dst.save_masks(path, dst.masks(state.opt_state))


@contextmanager
def shared_programs() -> Iterator[None]:
    """Runs of the same shapes are compiled once, in this process.

    JAX's persistent cache does that, in a directory that exists as long as the study. A cache that
    the user has set is left as it is.
    """
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    if before[names[0]]:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="dst-", ignore_cleanup_errors=True) as folder:
        try:
            for name, value in zip(names, (folder, 0.0, -1), strict=True):
                jax.config.update(name, value)
            compilation_cache.reset_cache()  # JAX may have decided earlier that it is off
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
