"""Reads the files of a run directory; what is missing or damaged becomes a note, not an error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dst.io.safetensors import load_masks
from dst.train.objectives.task import FIGURES, headline

CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"
INITIAL, FINAL = "masks-initial.safetensors", "masks-final.safetensors"


def number(value: Any) -> float | None:
    """A finite number as float; None for anything else (null, NaN, text, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


@dataclass(frozen=True)
class Layer:
    """One leaf of the model as far as the files tell; None is unknown, or does not apply."""

    path: str
    shape: tuple[int, ...]
    active: int | None = None
    size: int | None = None
    sparsity: float | None = None
    explored: float | None = None
    dropped: int | None = None
    grown: int | None = None
    sparse: bool = True


@dataclass
class Run:
    """The contents of a run directory.

    Attributes:
      name: of the run; the directory's where the config has none.
      config, config_text: the resolved config, parsed and as it stands in the file.
      lines: the readable lines of ``metrics.jsonl``, in the order of their steps.
      summary: of ``summary.json``.
      initial, final: masks by leaf path.
      notes: what is missing or damaged, one sentence each.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    final: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def series(self, key: str, *kinds: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one metric in the lines of these kinds; NaN where no number is.

        Where several lines have the same step, the last one counts.
        """
        found = {
            line["step"]: number(line[key])
            for line in self.lines
            if line["kind"] in kinds and key in line
        }
        values = [math.nan if value is None else value for value in found.values()]
        return np.array(list(found), dtype=float), np.array(values, dtype=float)

    def last(self, key: str, *kinds: str) -> float | None:
        """The last finite value of a metric in the lines of these kinds."""
        _, values = self.series(key, *kinds)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if finite.size else None

    def headline(self) -> str:
        """The figure that this run is about: the most telling one that was logged."""
        return headline({key for line in self.lines for key in line} | self.summary.keys())

    def last_step(self) -> int | None:
        """The last logged step."""
        return self.lines[-1]["step"] if self.lines else None

    def section(self, name: str) -> dict[str, Any]:
        """One section of the config, empty where it is not there."""
        found = self.config.get(name)
        return dict(found) if isinstance(found, Mapping) else {}

    def paths(self) -> list[str]:
        """Leaf paths of the sparse layers, in the order of the model where that is known."""
        rows = [layer.path for layer in summary_layers(self.summary) if layer.sparse]
        logged = [
            key.removeprefix("sparsity/")
            for line in self.lines
            for key in line
            if key.startswith("sparsity/")
        ]
        return list(dict.fromkeys([*rows, *logged, *self.initial, *self.final]))

    def dense(self) -> bool:
        """Whether the run is known to have no sparse layer."""
        if self.paths():
            return False
        return self.section("method").get("name") == "dense" or bool(summary_layers(self.summary))

    def layers(self) -> list[Layer]:
        """One row per leaf: from the summary, or else from masks and metrics."""
        return summary_layers(self.summary) or [self._layer(path) for path in self.paths()]

    def _layer(self, path: str) -> Layer:
        mask = self.final.get(path)
        kinds = ("topology", "eval")
        sparsity = self.last(f"sparsity/{path}", *kinds)
        explored = self.last(f"explored/{path}", *kinds)
        if mask is None:
            return Layer(path, (), sparsity=sparsity, explored=explored)
        active = int(mask.sum())
        if mask.size:
            sparsity = 1 - active / mask.size
        return Layer(path, mask.shape, active, mask.size, sparsity, explored)


def summary_layers(summary: Mapping[str, Any]) -> list[Layer]:
    """The layer rows of a summary; rows without a path are left out."""
    found = summary.get("layers")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    result = []
    for row in found:
        if not isinstance(row, Mapping) or not isinstance(row.get("path"), str):
            continue
        shape = row.get("shape")
        values = [number(n) for n in shape] if isinstance(shape, Sequence) else []
        result.append(
            Layer(
                path=row["path"],
                shape=tuple(int(n) for n in values if n is not None),
                active=_count(row, "active"),
                size=_count(row, "size"),
                sparsity=number(row.get("sparsity")),
                explored=number(row.get("explored")),
                dropped=_count(row, "dropped_total"),
                grown=_count(row, "grown_total"),
                # Dense leaves have nothing to explore; the trainer writes null for them.
                sparse=number(row.get("explored")) is not None,
            )
        )
    return result


def _count(row: Mapping[str, Any], key: str) -> int | None:
    value = number(row.get(key))
    return None if value is None else int(value)


def is_run(path: Path) -> bool:
    """Whether a directory holds a file of a run, be it damaged."""
    return any((path / name).is_file() for name in (CONFIG, METRICS, SUMMARY))


def read(run_dir: str | os.PathLike[str], *, masks: bool = True) -> Run:
    """Reads a run directory.

    Args:
      run_dir: the directory.
      masks: whether to read masks, too.

    Raises:
      FileNotFoundError: no such directory, or one that holds no file of a run.
    """
    where = Path(run_dir)
    if not where.is_dir():
        raise FileNotFoundError(
            f"expected a run directory, found no directory at {where}. "
            "Give the directory that `dst train` wrote, for example runs/<name>."
        )
    if not is_run(where):
        raise FileNotFoundError(
            f"{where} is no run directory: expected {CONFIG}, {METRICS} or {SUMMARY} in it, found "
            "none of them. Give the directory that `dst train` wrote, for example runs/<name>."
        )
    run = Run(name=where.resolve().name)
    _read_config(where, run)
    _read_metrics(where, run)
    _read_summary(where, run)
    if masks:
        _read_masks(where, run)
    return run


def _text(path: Path, run: Run, consequence: str) -> str | None:
    if not path.is_file():
        run.notes.append(f"{path.name} is missing: {consequence}")
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        run.notes.append(f"{path.name} cannot be read ({error.strerror}): {consequence}")
        return None


def _read_config(where: Path, run: Run) -> None:
    text = _text(where / CONFIG, run, "the settings of this run are unknown.")
    if text is None:
        return
    run.config_text = text
    try:
        config = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):
        config = None
    if not isinstance(config, dict):
        run.notes.append(f"{CONFIG} is damaged: it is no YAML mapping; its text is shown as it is.")
        return
    run.config = config
    if isinstance(config.get("name"), str) and config["name"]:
        run.name = config["name"]


def _read_metrics(where: Path, run: Run) -> None:
    missing = "there are no curves; they appear once training has logged a step."
    text = _text(where / METRICS, run, missing)
    if text is None:
        return
    raw = text.split("\n")
    damaged = []
    for i, part in enumerate(raw, start=1):
        if not part.strip():
            continue
        line = _metrics_line(part)
        if line is not None:
            run.lines.append(line)
        elif i == len(raw):
            run.notes.append(f"The last line of {METRICS} is cut off; it is left out.")
        else:
            damaged.append(i)
    if damaged:
        some = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        run.notes.append(f"{METRICS}: {len(damaged)} unreadable lines are left out (line {some}).")
    if not run.lines:
        run.notes.append(f"{METRICS} holds no metrics yet: {missing}")
    run.lines.sort(key=lambda line: line["step"])
    for kind, key in (("train", "loss"), ("eval", "loss"), *(("eval", name) for name in FIGURES)):
        steps, values = run.series(key, kind)
        bad = steps[~np.isfinite(values)]
        if bad.size:
            run.notes.append(
                f"The {'test' if kind == 'eval' else kind} {key} is no finite number on "
                f"{bad.size} of {steps.size} lines, first at step {bad[0]:,.0f}."
            )


def _metrics_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        return None
    step = number(line.get("step"))
    if step is None:
        return None
    return line | {"step": int(step)}


def _read_summary(where: Path, run: Run) -> None:
    text = _text(
        where / SUMMARY,
        run,
        "the run has not finished, and there are no figures but the last logged ones.",
    )
    if text is None:
        return
    try:
        summary = json.loads(text)
    except (ValueError, RecursionError):
        summary = None
    if isinstance(summary, dict):
        run.summary = summary
    else:
        run.notes.append(f"{SUMMARY} is damaged: it is no JSON object, and is left out.")


def _read_masks(where: Path, run: Run) -> None:
    found = {}
    for name in (INITIAL, FINAL):
        try:
            found[name] = load_masks(where / name)
        except FileNotFoundError:
            if not run.dense():
                when = "before" if name == INITIAL else "after"
                run.notes.append(f"{name} is missing: no masks from {when} training.")
        except (ValueError, TypeError, KeyError, OSError) as error:
            run.notes.append(f"{name} is damaged and left out: {error}")
    run.initial, run.final = found.get(INITIAL, {}), found.get(FINAL, {})
