"""One sweep by both engines: winners, masks after the first topology step, wall time.

    python experiments/sweep_engines/run.py

Each engine is `dst sweep` in a process of its own, one after the other, with one trial process at
a time; run it on a machine that does nothing else. A third sweep, vectorised again and not timed,
writes a checkpoint right after the first topology step; its masks are compared with those of each
trial trained alone up to there. At the end the table in this folder is rewritten.
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
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dst
from dst.core.files import write
from dst.report import markdown
from dst.studies import sweep
from dst.studies.sweep import RESULTS
from dst.studies.sweep.spec import Sweep
from dst.train import setup
from dst.train.config import plain_data
from dst.train.config import run as config
from dst.train.records import checkpoint, run_dir

HERE = Path(__file__).parent
SWEEP = HERE.parents[1] / "configs" / "digits" / "sweep.yaml"
ENGINES, MASKS = ("processes", "vectorised"), "masks"

Masks = dict[str, np.ndarray]


def first_topology_step(planned: Sweep) -> int:
    """Updates after which all trials have had exactly one topology step.

    Raises:
      ValueError: trials whose first topology steps are not at the same step.
    """
    firsts = set()
    for overrides in planned.trials():
        settings = config.load(planned.config, [*planned.fixed, *(overrides or ())])
        rule = settings.rule()
        firsts.add(next(t for t in range(settings.train.steps) if rule.fires(t)))
    if len(firsts) != 1:
        raise ValueError(f"trials must have their first topology step at one step, got {firsts}.")
    return firsts.pop() + 1


def with_checkpoints(file: Path, every: int, path: Path) -> Path:
    """Writes the sweep file with a checkpoint after every so many steps."""
    data = dict(plain_data.read(file))
    *command, arguments = data["command"]
    kept = {"checkpoint_every": every, "keep": 1000}
    write(path, plain_data.to_yaml({**data, "command": [*command, f"train={kept}", arguments]}))
    return path


def seconds(file: Path, where: Path, engine: str) -> float:
    """Runs the sweep from its start; the wall time of the command."""
    shutil.rmtree(where, ignore_errors=True)
    command = [sys.executable, "-m", "dst.cli", "sweep", str(file)]
    start = time.perf_counter()
    subprocess.run([*command, "--dir", str(where), "--engine", engine], check=True)
    return time.perf_counter() - start


def masks_both_ways(run: Path, step: int) -> tuple[Masks, Masks]:
    """Those in a run's checkpoint after its first topology step, and those of the same config
    trained alone up to there.

    Raises:
      ValueError: another number of topology steps.
    """
    pieces = setup.make(config.load(run / run_dir.CONFIG, ["train.steps_per_call=1"]))
    state = pieces.begin()
    saved = checkpoint.restore(run / run_dir.CHECKPOINTS, step, state)
    with closing(pieces.batches(0)) as batches:
        for count in range(step):
            state, _ = pieces.step(state, *next(batches), topology=pieces.fires(count))
    for opt_state in (saved.opt_state, state.opt_state):
        if int(opt_state.topology.done) != 1:
            raise ValueError(
                f"{run} had {opt_state.topology.done} topology steps at {step}, not 1."
            )
    return _masks(saved), _masks(state)


def _masks(state: Any) -> Masks:
    return {path: np.asarray(x) for path, x in dst.masks(state.opt_state).items()}


def overlap(one: Masks, other: Masks) -> float:
    """The fraction of active connections of one that are active in the other."""
    common = sum(int((one[path] & other[path]).sum()) for path in one)
    return common / sum(int(mask.sum()) for mask in one.values())


def settings(results: dict[str, Any]) -> dict[str, float]:
    """Mean of the metric over the seeds, by the other overrides.

    Raises:
      ValueError: trials that are not done.
    """
    values: dict[str, list[float]] = {}
    for trial in results["trials"]:
        if trial["state"] != "done":
            raise ValueError(f"trial {trial['number']} is {trial['state']}: {trial['error']}")
        chosen = " ".join(x for x in trial["overrides"] if not x.startswith("seed="))
        values.setdefault(f"`{chosen}`", []).append(trial["value"])
    return {key: statistics.mean(x) for key, x in values.items()}


def compared(where: Path, step: int) -> list[tuple[str, str, str]]:
    """The results of both engines, row by row."""
    one, other = (json.loads((where / x / RESULTS).read_text("utf-8")) for x in ENGINES)
    means, name = [settings(one), settings(other)], one["metric"]
    pick = max if one["goal"] == "maximize" else min
    first, final, apart = [], [], []
    for a, b in zip(one["trials"], other["trials"], strict=True):
        runs = [where / x / a["directory"] for x in ENGINES]
        first.append(overlap(*masks_both_ways(where / MASKS / a["directory"], step)))
        final.append(overlap(*(dst.load_masks(run / run_dir.MASKS_FINAL) for run in runs)))
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
    step = first_topology_step(sweep.load(options.file))
    took = [seconds(options.file, options.dir / engine, engine) for engine in ENGINES]
    # Compiled once for all trials.
    jax.config.update("jax_compilation_cache_dir", str(options.dir.absolute() / "compiled"))
    file = with_checkpoints(options.file, step, options.dir / options.file.name)
    seconds(file, options.dir / MASKS, "vectorised")
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
