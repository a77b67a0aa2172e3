"""Where a run's records go: a file, the terminal, Weights & Biases; one interface for all."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

import dst
from dst.train.config.run import Config
from dst.train.distributed import processes as hosts
from dst.train.objectives.figures import FIGURES
from dst.train.records import run_dir as directory
from dst.train.records.wandb import WeightsAndBiases

Line = Mapping[str, Any]


@runtime_checkable
class Logger(Protocol):
    """Takes the records of a run."""

    def log(self, line: Line) -> None:
        """One record: ``step`` (updates done), ``kind`` (train, eval, topology) and numbers."""

    def show(self, step: int, path: str, mask: np.ndarray) -> None:
        """The mask of a layer, bool ``[..., inputs, outputs]``, for those that draw pictures."""

    def rewind(self, step: int) -> None:
        """The run has gone back to ``step``; later records are forgotten where that can be."""

    def close(self, summary: Line | None) -> None:
        """The end; ``summary`` is what ``summary.json`` holds, None where the run broke off."""


class JsonLines:
    """``metrics.jsonl``: one object per record. Records after ``start`` are cut off first.

    What cannot be written, on a full disk for instance, is told once, kept in memory, and written
    when there is room again.
    """

    def __init__(self, path: Path, start: int):
        self._path, self._told = path, False
        self._waiting: list[bytes] = []
        # Unbuffered: a killed run loses nothing that a checkpoint relies on.
        self._file = path.open("ab", buffering=0)
        self.rewind(start)

    def log(self, line: Line) -> None:
        self._waiting.append((json.dumps(line, allow_nan=False) + "\n").encode())
        self._write()

    def show(self, step: int, path: str, mask: np.ndarray) -> None:
        pass

    def rewind(self, step: int) -> None:
        def early(line: bytes) -> bool:
            return line.endswith(b"\n") and json.loads(line)["step"] <= step

        kept = takewhile(early, self._path.read_bytes().splitlines(keepends=True))
        self._file.truncate(sum(map(len, kept)))
        self._waiting = list(filter(early, self._waiting))

    def records(self) -> list[dict[str, Any]]:
        """All records so far, those that wait included."""
        return read(self._path) + [json.loads(line) for line in self._waiting]

    def close(self, summary: Line | None) -> None:
        self._write()
        if self._waiting:
            text = f"warning: the last {len(self._waiting)} records are not in {self._path}."
            print(text, file=sys.stderr, flush=True)
        self._file.close()

    def _write(self) -> None:
        text, whole = b"".join(self._waiting), os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if os.fstat(self._file.fileno()).st_size > whole:
                self._file.truncate(whole)  # no half a record in the middle of the file
            if not self._told:
                told = f"warning: {self._path}: {error.strerror}. Records wait in memory for room."
                print(told, file=sys.stderr, flush=True)
            self._told = True
        else:
            self._waiting, self._told = [], False


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Screen:
    """A progress bar on a terminal, a line per evaluation elsewhere."""

    def __init__(self, steps: int, start: int):
        self._steps, self._speed = steps, ""
        self._bar = _bar(steps, start) if sys.stdout.isatty() else None

    def log(self, line: Line) -> None:
        if line["kind"] == "train":
            self._speed = f"{line['steps_per_second']:.0f} steps/s"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=line["step"], speed=self._speed)
        if line["kind"] == "eval":
            scores = [f"test loss {line['loss']:.4f}"]
            scores += [f"{x.words} {line[name]:.4f}" for name, x in FIGURES.items() if name in line]
            text = (
                f"step {line['step']:>{len(str(self._steps))}} / {self._steps}  "
                f"{'  '.join(scores)}  "
                f"sparsity {line['sparsity']:.4f}  explored {line['explored']:.4f}  {self._speed}"
            )
            if self._bar:
                self._bar.console.print(text, highlight=False, soft_wrap=True)
            else:
                print(text, flush=True)

    def show(self, step: int, path: str, mask: np.ndarray) -> None:
        pass

    def rewind(self, step: int) -> None:
        pass  # the next record moves the bar back

    def close(self, summary: Line | None) -> None:
        if self._bar:
            self._bar.stop()


def _bar(steps: int, start: int) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn()
    )
    bar.add_task("", total=steps, completed=start, speed="")
    bar.start()
    return bar


class Tolerated:
    """A logger whose failures are told once and do not end the run."""

    def __init__(self, name: str, make: Callable[[], Logger]):
        self._name = name
        self._logger: Logger | None = self._try(make)

    def log(self, line: Line) -> None:
        if self._logger:
            self._try(self._logger.log, line)

    def show(self, step: int, path: str, mask: np.ndarray) -> None:
        if self._logger:
            self._try(self._logger.show, step, path, mask)

    def rewind(self, step: int) -> None:
        if self._logger:
            self._try(self._logger.rewind, step)

    def close(self, summary: Line | None) -> None:
        if self._logger:
            self._try(self._logger.close, summary)

    def _try(self, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except Exception as error:  # the service, the network, the client
            self._logger = None
            reason = str(error).rstrip(".")
            text = f"warning: {self._name}: {reason}. Training goes on without it."
            print(text, file=sys.stderr, flush=True)
            return None


class Loggers:
    """All loggers of a run, as one; in the first of its processes, the others have none.

    Args:
      config: of the run.
      where: its directory.
      start: the step at which it begins, or goes on.
    """

    def __init__(self, config: Config, where: Path, start: int):
        self._all: list[Logger] = []
        self._summary: Line | None = None
        self._draws, self._steps = config.wandb.mode != "disabled", config.train.steps
        self._tenth = 10 * start // self._steps  # of training: the last one with a picture
        if not hosts.first():
            return
        self._file = JsonLines(where / directory.METRICS, start)
        self._all.append(self._file)
        if self._draws:
            service = Tolerated("Weights & Biases", lambda: WeightsAndBiases(config, where))
            self._all.append(service)
        self._all.append(Screen(config.train.steps, start))

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._all:
            logger.close(self._summary)

    def log(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One record for all; what is no finite number is left out, since JSON has none."""
        found = {k: _number(v) for k, v in jax.device_get(dict(values)).items()}
        line = {k: v for k, v in found.items() if math.isfinite(v)}
        for logger in self._all:
            logger.log({"step": step, "kind": kind, **line})

    def show(self, step: int, opt_state: Any, *, always: bool = False) -> None:
        """The mask of the first sparse layer, where a logger draws it: at most once in each tenth
        of training. In all processes.

        Args:
          step: updates done.
          opt_state: after them.
          always: whether this one is drawn in any case.
        """
        tenth = 10 * step // self._steps
        if not self._draws or not (always or tenth > self._tenth):
            return
        self._tenth = tenth
        masks = dst.masks(opt_state)
        if not masks:
            return
        path = next(iter(masks))
        mask = np.asarray(hosts.gathered(masks[path]))
        for logger in self._all:
            logger.show(step, path, mask)

    def rewind(self, step: int) -> None:
        """The run has gone back to ``step``."""
        for logger in self._all:
            logger.rewind(step)

    def records(self) -> list[dict[str, Any]]:
        """All records of the run so far; in the first process."""
        return self._file.records()

    def finish(self, summary: Line) -> None:
        """What ``summary.json`` holds; told when the loggers are closed."""
        self._summary = summary


def _number(value: Any) -> int | float:
    """A Python number; a float32 by its shortest decimal form, 0.9 and not 0.8999999761581421."""
    array = np.asarray(value)
    return int(array) if array.dtype.kind in "iu" else float(str(array))
