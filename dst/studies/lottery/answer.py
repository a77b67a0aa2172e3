"""What a study answers, in one sentence with its uncertainty: the first line of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dst.report.contrast import Contrast, paired
from dst.report.groups import LEAST
from dst.report.words import percent

Row = Mapping[str, Any]  # of `lottery.json`
_SEEDS = {1: "one seed: no interval", 2: "2 seeds: not enough for an interval"}


def tickets(rows: Sequence[Sequence[Row]]) -> str:
    """Down to which share of the weights tickets are as good as the dense network.

    Args:
      rows: of each seed, the same rounds.
    """
    names = [x for x in ("ticket", "reinit", "random_masks") if all(x in r for r in rows[0][1:])]
    table = {
        name: np.array(
            [[row.get(name, {}).get("accuracy", np.nan) for row in some] for some in rows]
        )
        for name in names
    }
    if "ticket" not in table or len(rows[0]) < 2 or not np.isfinite(table["ticket"]).all():
        return "There is no answer yet, because no ticket has been trained."
    accuracy = table["ticket"].T  # [rounds, seeds]
    found = [paired((0, i), accuracy[[0, i]], "seed") for i in range(len(accuracy))]
    good = [i for i in range(1, len(accuracy)) if not _below(found[i])]
    n = len(rows)
    known = _SEEDS.get(n, f"{n} paired seeds")
    dense = f"the dense network ({percent(float(accuracy[0].mean()))})"
    if not good:
        return f"No ticket is as accurate as {dense} ({known})."
    last = good[-1]
    share = f"{100 * rows[0][last]['share']:.3g} %"
    if n < LEAST:
        text = f"The smallest ticket that is at least as accurate as {dense} has {share} of the"
        text += f" weights ({known})"
    else:
        within = 100 * found[last].within(0, 1)
        text = f"Tickets of {share} of the weights are not clearly less accurate than {dense}"
        text += f" (at most {within:.1f} points apart at 95 %, {known})"
    if "reinit" in table and np.isfinite(table["reinit"][:, last]).all():
        pair = np.stack([accuracy[last], table["reinit"][:, last]])
        subject = "it is" if n < LEAST else "they are"
        text += f"; {subject} {_against(paired((0, 1), pair, 'seed'))}"
    return f"{text}."


def search(result: Mapping[str, Any]) -> str:
    """How good the best of many masks is, judged by examples that did not choose it."""
    best, n = result["best"], len(result["rows"])
    return (
        f"The best of {n} random masks reaches {percent(best['accuracy'])} test accuracy on "
        f"examples that did not choose it; all have {percent(best['mean'])} ± "
        f"{100 * best['deviation']:.1f} points (mean and standard deviation)."
    )


def connectivity(results: Sequence[Mapping[str, Any]]) -> str:
    """How high the error barrier between two copies is."""
    barriers = [row["instability"] for result in results for row in result["rows"]]
    at = results[0]["rows"][0]["at"]
    text = f"Copies from step {at:,} have an error barrier of"
    mean = 100 * float(np.mean(barriers))
    seeds = _SEEDS[1] if len(barriers) == 1 else f"mean of {len(barriers)} seeds"
    stable = sum(row["stable"] for result in results for row in result["rows"])
    return f"{text} {mean:.1f} points ({seeds}); {stable} of {len(barriers)} are stable."


def _below(found: Contrast) -> bool:
    """Whether a ticket is behind the dense network, clearly where an interval can say so."""
    behind = found.means[1] < found.means[0]
    return bool(behind if found.half is None else behind and found.clear(0, 1, 0.0))


def _against(found: Contrast) -> str:
    distance = 100 * float(found.means[0] - found.means[1])
    text = f"{abs(distance):.1f} points {'above' if distance >= 0 else 'below'} the same masks"
    text += " with new initial weights"
    if found.half is None:
        return text
    low, high = (abs(distance) + x for x in (-100 * found.half, 100 * found.half))
    return f"{text} (95 % interval {low:.1f} to {high:.1f})".replace("-", "−")
