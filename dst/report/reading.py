"""Reads the files of a run directory; what is missing or damaged becomes a note, not an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dst.io.safetensors import load_masks
from dst.report.contents import Run, number
from dst.train.objectives.task import FIGURES
from dst.train.records.run_dir import CONFIG, MASKS_FINAL, MASKS_INITIAL, METRICS, SUMMARY


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
    for name in (MASKS_INITIAL, MASKS_FINAL):
        try:
            found[name] = load_masks(where / name)
        except FileNotFoundError:
            if not run.dense():
                when = "before" if name == MASKS_INITIAL else "after"
                run.notes.append(f"{name} is missing: no masks from {when} training.")
        except (ValueError, TypeError, KeyError, OSError) as error:
            run.notes.append(f"{name} is damaged and left out: {error}")
    run.initial, run.final = found.get(MASKS_INITIAL, {}), found.get(MASKS_FINAL, {})
