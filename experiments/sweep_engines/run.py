"""One sweep by both engines: winners, masks after the first topology step, wall time.

    python experiments/sweep_engines/run.py

Each engine is `dst sweep` in a process of its own, one after the other, with one trial process at
a time; run it on a machine that does nothing else. Both get a checkpoint right after every trial's
first topology step, which is all that is added to the sweep file. At the end the table in this
folder is rewritten.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import dst
from dst import sweep
from dst.report import markdown
from dst.sweep import RESULTS
from dst.sweep.file import Sweep
from dst.train import checkpoint, config, directory, plain, setup

HERE = Path(__file__).parent
SWEEP = HERE.parents[1] / "configs" / "digits" / "sweep.yaml"
ENGINES = ("processes", "vectorised")

Masks = dict[str, np.ndarray]


def prepared(file: Path, where: Path) -> tuple[Sweep, int]:
    """The sweep with a checkpoint right after the first topology step, as a file in a directory;
    and the step of this checkpoint.

    Raises:
      ValueError: trials whose first topology steps are not at the same step.
    """
    found = sweep.load(file)
    firsts = set()
    for overrides in found.trials():
        made = config.load(found.config, [*found.fixed, *(overrides or ())])
        rule = made.rule()
        firsts.add(next(t for t in range(made.train.steps) if rule.fires(t)))
    if len(firsts) != 1:
        raise ValueError(f"trials must have their first topology step at one step, got {firsts}.")
    step = firsts.pop() + 1
    data = dict(plain.read(file))
    *command, arguments = data["command"]
    kept = f"train={ {'checkpoint_every': step, 'keep': 1000} }"
    where.mkdir(parents=True, exist_ok=True)
    path = where / file.name
    directory.write(path, plain.to_yaml({**data, "command": [*command, kept, arguments]}))
    return sweep.load(path), step


def seconds(planned: Sweep, where: Path, engine: str) -> float:
    """Runs the sweep anew; the wall time of the command."""
    shutil.rmtree(where, ignore_errors=True)
    command = [sys.executable, "-m", "dst.cli", "sweep", str(planned.path)]
    began = time.perf_counter()
    subprocess.run([*command, "--dir", str(where), "--engine", engine], check=True)
    return time.perf_counter() - began


def masks_at(run: Path, step: int) -> Masks:
    """Those in a run's checkpoint after its first topology step.

    Raises:
      ValueError: another number of topology steps.
    """
    like = setup.make(config.load(run / directory.CONFIG)).begin()
    state: Any = checkpoint.restore(run / directory.CHECKPOINTS, step, like).opt_state
    if int(state.topology.done) != 1:
        raise ValueError(f"{run} had {int(state.topology.done)} topology steps at {step}, not 1.")
    return {path: np.asarray(x) for path, x in dst.masks(state).items()}


def overlap(one: Masks, other: Masks) -> float:
    """The fraction of active connections of one that are active in the other."""
    common = sum(int((one[path] & other[path]).sum()) for path in one)
    return common / sum(int(mask.sum()) for mask in one.values())


def settings(results: dict[str, Any]) -> dict[str, float]:
    """Mean of the metric over the seeds, by the other overrides.

    Raises:
      ValueError: trials that are not done.
    """
    found: dict[str, list[float]] = {}
    for trial in results["trials"]:
        if trial["state"] != "done":
            raise ValueError(f"trial {trial['number']} is {trial['state']}: {trial['error']}")
        chosen = " ".join(x for x in trial["overrides"] if not x.startswith("seed="))
        found.setdefault(f"`{chosen}`", []).append(trial["value"])
    return {key: statistics.mean(values) for key, values in found.items()}


def compared(where: Path, step: int) -> list[tuple[str, str, str]]:
    """What both engines came to, row by row."""
    one, other = (json.loads((where / x / RESULTS).read_text("utf-8")) for x in ENGINES)
    means, name = [settings(one), settings(other)], one["metric"]
    pick = max if one["goal"] == "maximize" else min
    first, final, apart = [], [], []
    for a, b in zip(one["trials"], other["trials"], strict=True):
        runs = [where / x / a["directory"] for x in ENGINES]
        first.append(overlap(*(masks_at(run, step) for run in runs)))
        final.append(overlap(*(dst.load_masks(run / directory.MASKS_FINAL) for run in runs)))
        apart.append(abs(a["value"] - b["value"]))

    def same(values: list[float], value: float) -> str:
        return f"{values.count(value)} of {len(values)} trials"

    return [
        ("best trial", *(str(x["best"]) for x in (one, other))),
        ("best setting", *(pick(x, key=lambda k, x=x: x[k]) for x in means)),
        ("same masks after the first topology step", "", same(first, 1.0)),
        ("same final masks", "", same(final, 1.0)),
        ("final connections in common, least of all trials", "", f"{min(final):.3f}"),
        (f"same {name}", "", same(apart, 0.0)),
        (f"largest difference of the {name}", "", f"{max(apart):.4f}"),
        *((f"{name}, {key}", *(f"{x[key]:.4f}" for x in means)) for key in means[0]),
    ]


def main() -> None:
    """Runs the sweep twice and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=SWEEP)
    parser.add_argument("--dir", type=Path, default=Path("runs/sweep_engines"))
    options = parser.parse_args()
    planned, step = prepared(options.file, options.dir)
    took = [seconds(planned, options.dir / engine, engine) for engine in ENGINES]
    rows = [
        ("wall time, s", *(f"{x:.0f}" for x in took)),
        ("of one by one", "", f"{took[1] / took[0]:.2f}"),
        *compared(options.dir, step),
    ]
    text = markdown.table([f"{os.cpu_count()} CPU cores", *ENGINES], rows)
    print(text)
    if options.file == SWEEP:
        markdown.write_between(HERE / "README.md", "table", text)


if __name__ == "__main__":
    main()
