"""The contents of a run directory, as far as its files tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dst.train.objectives.figures import FIGURES, Figure, figure_of, headline


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
    """One leaf of the model; None where the files do not say it, or where it does not apply."""

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
        by_step = {
            line["step"]: number(line[key])
            for line in self.lines
            if line["kind"] in kinds and key in line
        }
        values = [math.nan if value is None else value for value in by_step.values()]
        return np.array(list(by_step), dtype=float), np.array(values, dtype=float)

    def last(self, key: str, *kinds: str) -> float | None:
        """The last finite value of a metric in the lines of these kinds."""
        _, values = self.series(key, *kinds)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if finite.size else None

    def headline(self) -> str:
        """The figure that this run is about: the most telling one that was logged."""
        return headline(self.logged() | self.summary.keys())

    def figure(self) -> Figure:
        """How the headline is shown."""
        return figure_of(self.headline())

    def logged(self, *kinds: str) -> set[str]:
        """Names of what the lines hold, or those of some kinds."""
        return {key for x in self.lines if not kinds or x["kind"] in kinds for key in x}

    def task_figures(self) -> list[str]:
        """What training and test data are both judged by, shares last.

        Where a figure in bits is logged, it stands for the loss, which is the same in nats.
        """
        names = self.logged("train") & self.logged("eval") - {"step", "kind"}
        names |= self.logged("train", "eval") & {*FIGURES, "loss"}
        if "bits_per_byte" in names:
            names -= {"loss"}
        return sorted(names, key=lambda name: (figure_of(name).share, name))

    def last_step(self) -> int | None:
        """The last logged step."""
        return self.lines[-1]["step"] if self.lines else None

    def section(self, name: str) -> dict[str, Any]:
        """One section of the config, empty where there is none."""
        section = self.config.get(name)
        return dict(section) if isinstance(section, Mapping) else {}

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
    rows = summary.get("layers")
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return []
    result = []
    for row in rows:
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
