"""Resuming a run with another config than it was saved with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dst.train.config.run import Config, ConfigError, load, parse, to_dict
from dst.train.records import run_dir

# Keys, or sections, that change nothing about the mathematics: where a run computes, what it tells
# and keeps, and what it does about numbers that are not finite.
FREE = (
    "name",
    "mesh",
    "hosts",
    "wandb",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_best",
    "train.on_nonfinite",
    "train.steps_per_call",
)
# Changes nothing about the mathematics either, but what a run costs: restored states are converted.
_FORM = "sparsify.form"
# What cannot change once a run has started: the state holds what follows from it.
_FIXED = ("start", "seed", "method", "sparsify")


def applied(
    where: Path,
    overrides: Sequence[str],
    changed: bool,
    trained: Mapping[str, Any] | None,
    finished: bool,
) -> Config:
    """The config of a run with overrides.

    Args:
      where: the run directory.
      overrides: ``key=value``, as for a new run.
      changed: whether keys may differ that change the mathematics.
      trained: the config of the checkpoint to resume from, as plain data: what is compared with;
        None: that of the directory, which somebody may have edited.
      finished: whether the run has come to its end. Nothing can change then.

    Raises:
      ConfigError: with every key that differs, what it was and would be.
    """
    path = where / run_dir.CONFIG
    saved, config = load(path), load(path, overrides)
    if trained is not None:
        saved = parse(trained, path)
    differing = dict(_differences(to_dict(saved), to_dict(config)))
    if not differing:
        return config
    lines = [f"  {key}: {old} -> {new}" for key, (old, new) in differing.items()]
    table = "\n".join(lines)
    if finished:
        raise ConfigError(
            f"{where} has finished with its config, and nothing in it can change:\n{table}\n"
            f"Train a new run: `dst train {path} KEY=VALUE --dir DIRECTORY`."
        )
    if fixed := [key for key in differing if _within(key, _FIXED) and key != _FORM]:
        raise ConfigError(
            f"{where} has started with another {fixed[0]}, and its state follows from it:\n"
            f"{table}\nTrain a new run: `dst train {path} KEY=VALUE --dir DIRECTORY`. It may begin "
            "with saved weights and masks (`start`)."
        )
    if not changed and not all(_within(key, (*FREE, _FORM)) for key in differing):
        raise ConfigError(
            f"{where} was trained with another config:\n{table}\n"
            "Resumed with it, the run is no longer that of one config. Say --changed to do so."
        )
    print(f"changed since the run was saved:\n{table}")
    return config


def _within(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        if old != new:
            yield key, (old, new)
        return
    for name in {**old, **new}:
        inner = f"{key}.{name}" if key else str(name)
        yield from _differences(old.get(name), new.get(name), inner)
