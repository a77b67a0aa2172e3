"""How a run directory is read: what is missing or damaged becomes a note, not an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from dst.io.safetensors import load_masks
from dst.report.contents import Run
from dst.report.words import listed
from dst.train.config import yaml12
from dst.train.objectives.figures import FIGURES
from dst.train.records import json_lines
from dst.train.records.run_dir import CONFIG, MASKS_FINAL, MASKS_INITIAL, METRICS, SUMMARY


def is_run(path: Path) -> bool:
    """Whether a directory holds a file of a run, even if it is damaged."""
    return any((path / name).is_file() for name in (CONFIG, METRICS, SUMMARY))


def read(path: str | os.PathLike[str], *, masks: bool = True) -> Run:
    """Reads a run directory.

    Args:
      path: the directory.
      masks: whether to read the masks, too.

    Raises:
      FileNotFoundError: no such directory, or one that holds no file of a run.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected a run directory, found no directory at {folder}. "
            "Give the directory that `dst train` wrote, for example runs/<name>."
        )
    if not is_run(folder):
        raise FileNotFoundError(
            f"{folder} is not a run directory: expected {CONFIG}, {METRICS} or {SUMMARY} in it, "
            "found none of them. Give a directory that `dst train` wrote, such as runs/<name>."
        )
    run = Run(name=folder.resolve().name)
    _read_config(folder, run)
    _read_metrics(folder, run)
    _read_summary(folder, run)
    if masks:
        _read_masks(folder, run)
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


def _read_config(folder: Path, run: Run) -> None:
    text = _text(folder / CONFIG, run, "the settings of this run are unknown.")
    if text is None:
        return
    run.config_text = text
    try:
        config = yaml12.load(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        run.notes.append(
            f"{CONFIG} is damaged: it is not a YAML mapping. Its text is shown unchanged."
        )
        return
    run.config = config
    if isinstance(config.get("name"), str) and config["name"]:
        run.name = config["name"]


def _read_metrics(folder: Path, run: Run) -> None:
    missing = "there are no curves before training has logged a step."
    text = _text(folder / METRICS, run, missing)
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
            run.notes.append(f"The last line of {METRICS} is incomplete and left out.")
        else:
            damaged.append(i)
    if damaged:
        run.notes.append(
            f"{METRICS}: {len(damaged)} unreadable lines are left out (line {listed(damaged)})."
        )
    if not run.lines:
        run.notes.append(f"{METRICS} holds no metrics yet: {missing}")
    run.lines.sort(key=lambda line: line["step"])
    for kind, key in (("train", "loss"), ("eval", "loss"), *(("eval", name) for name in FIGURES)):
        steps, values = run.series(key, kind)
        bad = steps[~np.isfinite(values)]
        if bad.size:
            run.notes.append(
                f"The {'test' if kind == 'eval' else kind} {key} is not a finite number on "
                f"{bad.size} of {steps.size} lines, first at step {bad[0]:,.0f}."
            )


def _metrics_line(text: str) -> dict[str, Any] | None:
    return json_lines.parse(f"{text}\n".encode())


def _read_summary(folder: Path, run: Run) -> None:
    text = _text(
        folder / SUMMARY,
        run,
        "the run has not finished. The figures are those that were logged last.",
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
        run.notes.append(f"{SUMMARY} is damaged and left out: it is not a JSON object.")


def _read_masks(folder: Path, run: Run) -> None:
    masks = {}
    for name in (MASKS_INITIAL, MASKS_FINAL):
        try:
            masks[name] = load_masks(folder / name)
        except FileNotFoundError:
            if not run.dense():
                when = "before" if name == MASKS_INITIAL else "after"
                run.notes.append(f"{name} is missing: there are no masks from {when} training.")
        except (ValueError, TypeError, KeyError, OSError) as error:
            run.notes.append(f"{name} is damaged and left out: {error}")
    run.initial, run.final = masks.get(MASKS_INITIAL, {}), masks.get(MASKS_FINAL, {})
