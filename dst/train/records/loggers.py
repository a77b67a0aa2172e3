"""Where a run's records go: a file, the terminal, Weights & Biases; one protocol for all.

A new logger is a class with two methods (:class:`Logger`) and one line in :func:`factories`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

import dst
from dst.core.typing import PyTree
from dst.train.config.run import Config
from dst.train.config.schema import Section
from dst.train.distributed import processes
from dst.train.records import run_dir
from dst.train.records.json_lines import JsonLines, read
from dst.train.records.screen import Screen
from dst.train.records.wandb import WeightsAndBiases

__all__ = ["Factory", "Logger", "Loggers", "Tolerated", "factories", "read"]


@runtime_checkable
class Logger(Protocol):
    """Receives the records of a run: ``loggers: [{import: "mine:Losses"}]`` in a config.

    It is created by ``factory(config, where, start)``, where ``where`` is the run directory and
    ``start`` the step at which the run starts or resumes. An exception of a logger becomes a
    warning; the logger is not called again, and the run continues. Of several processes, only the
    first one has loggers.

    Two more methods are called on a class that has them:

    * ``show(step, path, mask)``: the mask of a layer, ``bool [..., inputs, outputs]``, about ten
      times in a run.
    * ``rewind(step)``: the run rolled back to ``step`` and repeats the steps after it.

    Example:
      >>> class Losses:
      ...     def __init__(self, config, where, start):
      ...         self.file = (where / "losses.csv").open("a", encoding="utf-8")
      ...
      ...     def log(self, step, kind, values):
      ...         if kind == "train":
      ...             print(step, values["loss"], sep=",", file=self.file)
      ...
      ...     def close(self, summary):
      ...         self.file.close()
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     logger = Losses(None, Path(folder), start=0)
      ...     logger.log(10, "train", {"loss": 0.25, "learning_rate": 1e-3})
      ...     logger.close({"accuracy": 0.98})
      ...     print((Path(folder) / "losses.csv").read_text().strip())
      10,0.25
      >>> isinstance(logger, Logger)
      True
    """

    def log(self, step: int, kind: str, values: Mapping[str, int | float]) -> None:
        """One record.

        Args:
          step: optimizer updates done.
          kind: "train", "eval" or "topology".
          values: finite numbers by name, as in ``metrics.jsonl``.
        """

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """The end of the run. At its end, all files are in its directory, the report too.

        Args:
          summary: the content of ``summary.json``; None: the run stopped before its end.
        """


Factory = Callable[[Config, Path, int], Logger]


def factories(config: Config) -> dict[str, Factory]:
    """The loggers of a run beside ``metrics.jsonl``, by the names that warnings use."""
    service = {"Weights & Biases": WeightsAndBiases} if config.wandb.mode != "disabled" else {}
    own = {section.name: partial(_own, section) for section in config.loggers}
    return {**service, **own, "the terminal": Screen}


def _own(section: Section, config: Config, where: Path, start: int) -> Logger:
    logger = section.make(config=config, where=where, start=start)
    if not isinstance(logger, Logger):
        raise TypeError(
            f"{section.name} must give an object with log(step, kind, values) and close(summary), "
            f"got {type(logger).__name__}"
        )
    return logger


class Tolerated:
    """A logger whose first failure becomes a warning; it is not called again.

    Args:
      name: of the logger, for the warning.
      make: creates it.
    """

    def __init__(self, name: str, make: Callable[[], Logger]):
        self._name = name
        self._logger: Logger | None = self._try(make)

    def call(self, method: str, *args: object) -> None:
        """Calls a method of the logger, if it has the method and has not failed."""
        if action := getattr(self._logger, method, None):
            self._try(action, *args)

    def _try(self, action: Callable[..., Any], *args: object) -> Any:
        try:
            return action(*args)
        except Exception as error:  # the service, the network, the client
            self._logger = None
            reason = str(error).rstrip(".")
            text = f"warning: {self._name}: {reason}. Training continues without it."
            print(text, file=sys.stderr, flush=True)
            return None


class Loggers:
    """All loggers of a run, as one. Of several processes, only the first one has any.

    Args:
      config: of the run.
      where: its directory.
      start: the step at which it starts or resumes.
    """

    def __init__(self, config: Config, where: Path, start: int):
        self._summary: Mapping[str, Any] | None = None
        self._others: list[Tolerated] = []
        available, self._steps = factories(config), config.train.steps
        self._draws = any(hasattr(factory, "show") for factory in available.values())
        self._tenth = 10 * start // self._steps  # of training: the last one with a picture
        self._file: JsonLines | None = None
        if processes.first():
            self._file = JsonLines(where / run_dir.METRICS, start)
            for name, factory in available.items():
                self._others.append(Tolerated(name, partial(factory, config, where, start)))

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close(self._summary)
        self._call("close", self._summary)

    def log(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One record for all loggers.

        Args:
          step: optimizer updates done.
          kind: "train", "eval" or "topology".
          values: scalars of JAX, NumPy or Python by name. Those that are not finite are left out,
            since JSON has none.
        """
        record = finite(values)
        if self._file:
            self._file.log(step, kind, record)
        self._call("log", step, kind, record)

    def show(self, step: int, opt_state: PyTree, *, always: bool = False) -> None:
        """Shows the mask of the first sparse layer, at most once in each tenth of training.

        All processes must call it.

        Args:
          step: updates done.
          opt_state: after them.
          always: whether this mask is shown in any case.
        """
        tenth = 10 * step // self._steps
        if not self._draws or not (always or tenth > self._tenth):
            return
        self._tenth = tenth
        masks = dst.masks(opt_state)
        if not masks:
            return
        path = next(iter(masks))
        self._call("show", step, path, np.asarray(processes.gathered(masks[path])))

    def rewind(self, step: int) -> None:
        """The run rolled back to ``step``."""
        if self._file:
            self._file.rewind(step)
        self._call("rewind", step)

    def records(self) -> list[dict[str, Any]]:
        """All records of the run so far. Only for the first process."""
        assert self._file is not None
        return self._file.records()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Keeps what ``summary.json`` holds, for :meth:`Logger.close`."""
        self._summary = summary

    def _call(self, method: str, *args: object) -> None:
        for logger in self._others:
            logger.call(method, *args)


def finite(values: Mapping[str, Any]) -> dict[str, int | float]:
    """The values as Python numbers, without those that are not finite."""
    numbers = {name: number(value) for name, value in jax.device_get(dict(values)).items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def number(value: Any) -> int | float:
    """A Python number; a float32 by its shortest decimal form, 0.9 and not 0.8999999761581421."""
    array = np.asarray(value)
    return int(array) if array.dtype.kind in "iu" else float(str(array))
