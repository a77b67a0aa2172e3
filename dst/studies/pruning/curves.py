"""Quality against sparsity, and the knee: how many weights go almost for nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dst
from dst.core import checks
from dst.core.files import write_json
from dst.core.text import decimals
from dst.studies.pruning.job import REPORT, Job, Say, beside
from dst.studies.pruning.settings import Settings

RESULT = "curve.json"
TOLERANCE = 0.01


def curve(
    settings: Settings,
    sparsities: Sequence[float],
    out: str | os.PathLike[str],
    say: Say = lambda text: None,
    *,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Prunes a model once to every sparsity, each time from dense, and writes figures and a report.

    The knee is the largest sparsity before the first one that loses more than the tolerance: of
    decoders perplexity may be ``1 + tolerance`` times the dense one, of encoders the mean cosine
    ``1 - tolerance``. Without training afterwards, knees lie lower than published ones.

    Args:
      settings: of the prunings; their sparsity is replaced, their structure must be single weights.
      sparsities: in [0, 1), rising.
      out: a directory; new, or empty. Finished points are kept in ``<out>.part`` until it is whole.
      say: called with lines of progress.
      tolerance: above 0.

    Returns:
      what ``curve.json`` holds.

    Raises:
      FileExistsError: something is at the path.
      FileNotFoundError: no such model.
      ValueError: as :func:`dst.studies.pruning.run`; sparsities that do not rise; points of another
        curve.
      OSError: a file could not be written.

    References: Jaiswal et al. 2023, "The emergence of essential sparsity in large pre-trained
    models" (arXiv 2306.03805).
    """
    checks.above_zero("tolerance", tolerance)
    if not sparsities or any(b <= a for a, b in zip(sparsities, sparsities[1:], strict=False)):
        raise ValueError(f"sparsities must rise, got {list(sparsities)}.")
    if settings.structure is not None:
        raise ValueError(f"structure must be left out, got {settings.structure}: it has one point.")
    every = [replace(settings, sparsity=s) for s in sparsities]
    target = Path(out)
    work, job = beside(target, RESULT), Job(every[0])
    work.mkdir(parents=True, exist_ok=True)
    _check_same(work / "settings.json", {**asdict(settings), "sparsity": None})

    points = []
    for number, each in enumerate(every):
        file = work / f"{each.share():g}.json"
        if not file.exists():
            pruned, masks = job.prune(settings=each)
            kept, weights = sum(int(x.sum()) for x in masks.values()), _size(masks)
            point = {"sparsity": each.share(), "zeros": 1 - kept / weights, **job.judge(pruned)}
            write_json(file, point)
        points.append(json.loads(file.read_text(encoding="utf-8")))
        say(f"point {number + 1} of {len(every)}: {each.share():.1%}, {words(points[-1])}")
    result = {
        "settings": asdict(settings),
        "version": dst.__version__,
        "tolerance": tolerance,
        "points": points,
        "knee": knee(points, tolerance),
    }
    from dst.studies.pruning.report import write_curve  # loads Matplotlib

    whole = work / "curve"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    write_json(whole / RESULT, result)
    write_curve(result, whole / REPORT)
    whole.replace(target)
    shutil.rmtree(work)
    return result


def knee(points: Sequence[dict[str, Any]], tolerance: float) -> float | None:
    """The largest sparsity before the first point that loses too much; None where all do.

    Example:
      >>> points = [{"sparsity": s, "cosine": c} for s, c in ((0.1, 1.0), (0.2, 0.9), (0.3, 1.0))]
      >>> knee(points, 0.05)
      0.1
    """
    found = None
    for point in points:
        if not _good(point, tolerance):
            break
        found = point["sparsity"]
    return found


def _good(point: dict[str, Any], tolerance: float) -> bool:
    figure = point.get("cosine", point.get("perplexity"))
    if figure is None:  # NaN or infinite
        return False
    if "cosine" in point:
        return figure >= 1 - tolerance
    return figure <= (1 + tolerance) * point["against"]["perplexity"]


def words(point: dict[str, Any]) -> str:
    """The quality at a point."""
    if "cosine" in point:
        return f"mean cosine {decimals(point['cosine'], 4)}"
    dense = decimals(point["against"]["perplexity"], 2)
    return f"perplexity {decimals(point['perplexity'], 2)} (dense {dense})"


def _size(masks: dict[str, Any]) -> int:
    if not masks:
        raise ValueError("select: no leaf is selected, so nothing is pruned.")
    return sum(x.size for x in masks.values())


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    """Raises if a directory has points of other settings."""
    if not path.exists():
        write_json(path, settings)
    if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
        raise ValueError(
            f"{path.parent} holds points of another curve. Name another directory, or delete it."
        )
