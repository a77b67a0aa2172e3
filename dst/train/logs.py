"""Where a run's records go: a file, the terminal, Weights & Biases; one interface for all."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dst.train import directory
from dst.train.config import Config, to_dict
from dst.train.task import FIGURES

Line = Mapping[str, Any]


@runtime_checkable
class Logger(Protocol):
    """Takes the records of a run."""

    def log(self, line: Line) -> None:
        """One record: ``step`` (updates done), ``kind`` (train, eval, topology) and numbers."""

    def close(self, summary: Line | None) -> None:
        """The end; ``summary`` is what ``summary.json`` holds, None where the run broke off."""


class JsonLines:
    """``metrics.jsonl``: one object per record. Records after ``start`` are cut off first."""

    def __init__(self, path: Path, start: int):
        kept = [line for line in read(path) if line["step"] <= start]
        directory.write(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def log(self, line: Line) -> None:
        # One write per record, flushed: a killed run loses nothing that a checkpoint relies on.
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self, summary: Line | None) -> None:
        self._file.close()


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


class WeightsAndBiases:
    """A W&B run. A run that is resumed goes on there under the identity it began with."""

    def __init__(self, config: Config, where: Path):
        import wandb

        identity = where / "wandb" / "id"
        if not identity.is_file():
            identity.parent.mkdir(exist_ok=True)
            directory.write(identity, uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=config.wandb.project,
            name=config.name,
            id=identity.read_text(encoding="utf-8"),
            resume="allow",
            mode=config.wandb.mode,
            dir=where,
            config=to_dict(config),
        )

    def log(self, line: Line) -> None:
        values = {f"{line['kind']}/{k}": v for k, v in line.items() if k not in ("kind", "step")}
        self._run.log(values, step=line["step"])

    def close(self, summary: Line | None) -> None:
        if summary is None:
            self._run.finish(exit_code=1)
            return
        import wandb

        layers = summary["layers"]
        rows = [[str(v) if k == "shape" else v for k, v in row.items()] for row in layers]
        self._run.log({"layers": wandb.Table(columns=list(layers[0]), data=rows)})
        self._run.summary.update({k: v for k, v in summary.items() if isinstance(v, (int, float))})
        self._run.finish()


class Tolerated:
    """A logger whose failures are told once and do not end the run."""

    def __init__(self, name: str, make: Callable[[], Logger]):
        self._name = name
        self._logger: Logger | None = self._try(make)

    def log(self, line: Line) -> None:
        if self._logger:
            self._try(self._logger.log, line)

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


def open_all(config: Config, where: Path, start: int) -> list[Logger]:
    """The loggers of a run that begins, or goes on, at step ``start``."""
    loggers: list[Logger] = [JsonLines(where / directory.METRICS, start)]
    if config.wandb.mode != "disabled":
        loggers.append(Tolerated("Weights & Biases", lambda: WeightsAndBiases(config, where)))
    return [*loggers, Screen(config.train.steps, start)]
