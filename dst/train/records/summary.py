"""The result of a run: figures for ``summary.json``, and the table at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dst
from dst.core.text import aligned
from dst.train.objectives.figures import SCORES, figure_of, headline
from dst.train.state import TrainState

_SHOWN = {"layers", "seconds", "sparsity", "sparsity_model", "steps", "topology_steps"}
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def make(
    state: TrainState,
    records: Sequence[Mapping[str, Any]],
    steps: int,
    seconds: float,
    compile_seconds: float,
    test_labels: int,
) -> dict[str, Any]:
    """The figures of a finished run.

    Args:
      state: at the end.
      records: of the run, from which scores and sums over all topology steps are taken.
      steps: optimizer updates of the run.
      seconds: wall time of this process.
      compile_seconds: the part of it in which programs were compiled.
      test_labels: over how many labels the scores are means.
    """
    scored = [line for line in records if line["kind"] == "eval" and "sparsity" in line]
    # Without a record, which somebody may have lost, there are no scores.
    final = scored[-1] if scored else _of_state(state)
    topology = [line for line in records if line["kind"] == "topology"]

    def total(name: str, path: str) -> int:
        return sum(line.get(f"{name}/{path}", 0) for line in topology)

    layers = []
    for row in dst.rows(state.opt_state, state.weights):
        sparse = row.explored is not None
        layers.append(
            {
                "path": row.path,
                "shape": list(row.shape),
                "active": row.active,
                "size": row.size,
                "sparsity": row.sparsity,
                "explored": row.explored,
                "dropped_total": total("dropped", row.path) if sparse else None,
                "grown_total": total("grown", row.path) if sparse else None,
            }
        )
    return {
        **{name: final[name] for name in SCORES if name in final},
        "sparsity": final["sparsity"],
        "sparsity_model": final["sparsity_model"],
        "explored": final["explored"],
        "topology_steps": len(topology),
        "steps": steps,
        "seconds": round(seconds, 2),
        "compile_seconds": round(compile_seconds, 2),
        "test_labels": test_labels,
        "layers": layers,
        "versions": {"dst": dst.__version__, **{name: version(name) for name in _PACKAGES}},
    }


def _of_state(state: TrainState) -> dict[str, float]:
    measured = dst.metrics(state.opt_state, state.weights)
    return {name: float(measured[name]) for name in ("sparsity", "sparsity_model", "explored")}


def read(path: Path) -> dict[str, Any] | None:
    """The figures of a ``summary.json``; None where there are none, or the file is damaged."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return figures if isinstance(figures, dict) and figures.keys() >= _SHOWN else None


def table(figures: Mapping[str, Any]) -> str:
    """Text: the layers as in :func:`dst.table`, sums over all topology steps, the final scores."""
    lines = [("leaf", "shape", "active", "of", "sparsity", "explored", "dropped", "grown")]
    for row in figures["layers"]:
        dense = row["explored"] is None
        lines.append(
            (
                row["path"],
                "x".join(map(str, row["shape"])) or "scalar",
                str(row["active"]),
                str(row["size"]),
                "dense" if dense else f"{row['sparsity']:.4f}",
                "" if dense else f"{row['explored']:.4f}",
                "" if dense else str(row["dropped_total"]),
                "" if dense else str(row["grown_total"]),
            )
        )
    text = aligned(lines)
    text.append(
        f"selected: sparsity {figures['sparsity']:.4f}; model: {figures['sparsity_model']:.4f}; "
        f"dropped and grown are sums over {figures['topology_steps']} topology steps"
    )
    if "training_cost" in figures:
        text.append(
            f"multiply-adds relative to dense: training {figures['training_cost']:.4f}, forward "
            f"pass {figures['forward_cost']:.4f}; average density {figures['average_density']:.4f}"
        )
    name = headline(figures)
    score = "no score is recorded"
    if name in figures:
        score = f"test {figure_of(name).words} {figures[name]:.4f}"
    if (average := figures.get(f"ema_{name}")) is not None:
        score += f", of the moving average {average:.4f}"
    text.append(f"{score} after {figures['steps']} steps in {figures['seconds']:.0f} s")
    return "\n".join(text)
