"""The tasks of ``dst eval``: which are asked for, what they say of models, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dst.cli.progress import line
from dst.core import checks
from dst.core.text import aligned, shown

if TYPE_CHECKING:
    from flax import nnx

    from dst.eval.tasks import Task


def chosen(names: str | None, items: int | None, seed: int, normalize: str) -> list[Task]:
    """The tasks that ``--tasks`` names, in its order; none without it.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an unknown task, one that is named twice, or an ill-formed file; a negative seed;
        ``--items`` without tasks.
    """
    from dst.eval import tasks

    checks.integer("seed", seed, at_least=0)  # also of the bootstrap, which files need
    if names is None:
        if items is not None:
            raise ValueError("--items needs tasks that are made: --tasks recall.")
        return []
    found = [tasks.find(x.strip(), items, seed, normalize) for x in names.split(",")]
    known: set[str] = set()
    for task in found:
        if task.name in known:
            raise ValueError(f"--tasks must name each task once, got {shown(task.name)} twice.")
        known.add(task.name)
    return found


def check(chosen: Sequence[Task], tokenizer: Any, models: Sequence[nnx.Module]) -> None:
    """Raises unless each model can do all tasks; no model is run.

    Raises:
      ValueError: a model of another kind, or an item that does not fit one; it names both.
    """
    for task in chosen:
        task.prepare(tokenizer, models)


def judged(
    chosen: Sequence[Task], tokenizer: Any, models: Sequence[nnx.Module], seed: int
) -> dict[str, Any]:
    """Plain data: ``tasks`` has a :class:`dst.eval.tasks.Result` under each name."""
    from dst.eval import tasks

    found = {}
    for task in chosen:
        with line(f"task {task.name}") as progress:
            against = models[1] if len(models) > 1 else None
            result = tasks.judge(
                task, models[0], tokenizer, against=against, seed=seed, progress=progress
            )
        found[task.name] = {k: x for k, x in asdict(result).items() if k != "task"}
    return {"tasks": found, "seed": seed}


def table(found: dict[str, Any]) -> str:
    """A row per task; a column per model, and the difference."""
    rows = [["task", "measure", "items", "chance", "model", "against", "difference"]]
    for name, result in found["tasks"].items():
        chance = "" if result["chance"] is None else f"{result['chance']:.3f}"
        figures = [_cell(result["model"]), _cell(result["against"])]
        signed = _cell(result["difference"], "+.3f")
        rows.append([name, result["measure"], str(result["items"]), chance, *figures, signed])
    alone = not any(x["against"] for x in found["tasks"].values())
    rows = [x[:5] if alone else x for x in rows]
    note = "[95 % interval]" + ("" if alone else "; that of a difference is paired, over items")
    return "\n".join([*aligned(rows, left=2), note])


def _cell(figure: dict[str, float] | None, form: str = ".3f") -> str:
    if figure is None:
        return ""
    value, low, high = (format(figure[x], form) for x in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
