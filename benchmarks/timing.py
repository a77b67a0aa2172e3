"""Timings that can be compared: in one process, taking turns."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

_IDLE = 0.1  # of the processors' time
_WIDTH = 58  # of names, so that tables below each other have the same columns


def interleaved(
    runs: dict[str, Callable[[], Any]], rounds: int, warmup: int = 3
) -> dict[str, np.ndarray]:
    """Seconds of every run in every round, the runs taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + warmup):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if round_ >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.asarray(s) for name, s in seconds.items()}


def ratio(seconds: dict[str, np.ndarray], name: str, base: str) -> float:
    """Median of the paired ratios."""
    return float(np.median(seconds[name] / seconds[base]))


def busy(seconds: float = 2.0) -> float:
    """The share of the processors' time that others use, in [0, 1], while this program waits."""
    stat = Path("/proc/stat")
    if not stat.exists():
        time.sleep(seconds)
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))

    def times() -> np.ndarray:
        return np.array(stat.read_text().splitlines()[0].split()[1:9], float)

    before = times()
    time.sleep(seconds)
    spent = times() - before
    return float(1 - spent[3:5].sum() / max(spent.sum(), 1.0))  # idle, and waiting for a disk


def heading(rounds: int) -> str:
    """What the figures below it were measured on."""
    device = jax.devices()[0]
    text = (
        f"jax {jax.__version__}, {device.platform} ({device.device_kind}), {platform.machine()}, "
        f"{rounds} rounds, medians of paired ratios"
    )
    used = busy()
    if used > _IDLE:
        text += f"\nNOT IDLE: other programs use {used:.0%} of the processors. Ratios may be wrong."
    return text


def show(rows: Sequence[tuple[str, str, str]]) -> None:
    """Prints one table of rows: what, how much, the goal."""
    width = max(_WIDTH, *(len(name) for name, _, _ in rows))
    for name, value, goal in rows:
        print(f"{name:<{width}}  {value:>18}  {goal and '(goal: ' + goal + ')'}", flush=True)
