"""Timings that can be compared: in one process, taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


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
