"""What one run answers, in sentences with their uncertainty."""

from __future__ import annotations

import math

from dst.report.contents import Run, number
from dst.report.question import method_words
from dst.report.tiles import final, test_labels
from dst.report.words import count, figure, of_all, percent

_Z = 1.959964  # the 97.5 % point of the normal distribution


def answer(run: Run) -> list[str]:
    """The sentences: the figure with what it is a figure of, sparsity and costs, topology."""
    name, known = run.headline(), run.figure()
    value = final(run, name)
    if value is None:
        return ["There is no answer yet: no test figure is recorded."]
    sparsity = final(run, "sparsity")
    subject = "Dense training" if run.dense() else method_words(run)
    if not run.dense() and sparsity is not None:
        subject += f" at {100 * sparsity:.4g} % sparsity"
    start = f"{subject[0].upper()}{subject[1:]} reaches {figure(value, known.share)} test"
    start += f" {known.words}"
    labels = test_labels(run)
    counted = of_all(value, labels) if known.share else ""
    if counted and labels:
        low, high = wilson(value, labels)
        between = f"{100 * low:.1f} to {100 * high:.1f} %"
        start += f", {counted} (95 % interval {between} over test sets of this size; "
        start += "one seed: none over training)"
    else:
        start += " (one seed: no interval)"
    if not run.summary:
        start = f"So far, after step {count(run.last_step())}: {start}"
    return [f"{start}.", *_costs(run), *_topology(run)]


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted in ``n`` independent examples.

    >>> low, high = wilson(0.98, 100)
    >>> f"{low:.3f} {high:.3f}"
    '0.930 0.994'
    """
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return middle - half, middle + half


def _costs(run: Run) -> list[str]:
    if run.dense():
        return []
    selected, model = final(run, "sparsity"), final(run, "sparsity_model")
    found = []
    if selected is not None and model is not None:
        found.append(
            f"Of the selected weights {percent(selected)} are zero, of all parameters "
            f"{percent(model)}."
        )
    training = number(run.summary.get("training_cost"))
    forward = number(run.summary.get("forward_cost"))
    if training is not None and forward is not None:
        found.append(
            f"Training takes {percent(training)} of the FLOPs of dense training and inference "
            f"{percent(forward)}, if every zero is skipped."
        )
    return [" ".join(found)] if found else []


def _topology(run: Run) -> list[str]:
    if run.dense():
        return []
    steps, _ = run.series("grown", "topology")
    if not steps.size:
        return ["The mask did not change."] if run.summary else []
    grown = sum(row.grown or 0 for row in run.layers())
    dropped = sum(row.dropped or 0 for row in run.layers())
    what = f"exchanged {grown:,} connections"
    if grown != dropped:
        what = f"dropped {dropped:,} connections and grew {grown:,}"
    text = f"{steps.size:,} topology step{'s' * (steps.size != 1)} {what}"
    explored, sparsity = final(run, "explored"), final(run, "sparsity")
    if explored is not None and sparsity is not None:
        text += (
            f": {percent(explored)} of the weights were ever active, {percent(1 - sparsity)} are "
            "at the end"
        )
    return [f"{text}."]
