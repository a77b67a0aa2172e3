"""ALPS in plain NumPy: linear systems are solved anew, each output has its own loop."""

from __future__ import annotations

import numpy as np


def largest(values, keep, m=None, alive=None):
    """Mask ``[inputs, outputs]`` of the ``keep`` largest, of all or of each ``m`` inputs."""
    scores = abs(values).astype(np.float32)
    if alive is not None:
        scores = np.where(alive, scores, -1)
    mask = np.zeros(values.shape, bool)
    if m is None:
        best = np.argsort(-scores.ravel(), kind="stable")[:keep]
        mask.ravel()[best] = True
    else:
        for start in range(0, len(values), m):
            for o in range(values.shape[1]):
                best = np.argsort(-scores[start : start + m, o], kind="stable")[:keep]
                mask[start + best, o] = True
    return mask if alive is None else mask & alive


def least_squares(h, goal, weight, mask, steps):
    """Conjugate gradients from ``weight``, output by output, on the kept inputs alone."""
    found = np.zeros_like(weight)
    for o in range(weight.shape[1]):
        on = np.flatnonzero(mask[:, o])
        a, x = h[np.ix_(on, on)], weight[on, o].copy()
        r = goal[on, o] - a @ x
        p = r.copy()
        for _ in range(steps):
            if not (r @ r > 0 and p @ a @ p > 0):
                break
            alpha = (r @ r) / (p @ a @ p)
            x, after = x + alpha * p, r - alpha * (a @ p)
            p, r = after + (after @ after) / (r @ r) * p, after
        found[on, o] = x
    return found


def alps(w, x, keep, m=None, rho=0.1, steps=10, dampening=0.01, preserve=False):
    """Weights, mask, and what happened to ``rho``; ``w`` is ``[inputs, outputs]``, ``x`` rows."""
    alive = w != 0 if preserve else None
    kept = keep if m is None else keep * (w.size // m)
    h = x.T @ x
    h = h + dampening * np.diag(h).mean() * np.eye(len(h))
    norms = np.sqrt(np.diag(h))
    h = h / np.outer(norms, norms)
    start = w * norms[:, None]
    goal = h @ start

    mask = largest(start, keep, m, alive)
    first = d = np.where(mask, start, 0)
    v, before, growing, events = np.zeros_like(d), mask, False, []
    for iteration in range(1, 301):
        b = np.linalg.solve(h + rho * np.eye(len(h)), goal - v + rho * d)
        mask = largest(b + v / rho, keep, m, alive)
        d = np.where(mask, b + v / rho, 0)
        v = v + rho * (b - d)
        if iteration % 3:
            continue
        change, before = (mask != before).sum(), mask
        if change / kept > 0.1:
            event, growing, rho = "fast", True, rho * 1.3
        elif change / kept > 0.005:
            event, growing, rho = "medium", True, rho * 1.2
        elif change > 0 and growing:
            event, rho = "slow", rho * 1.1
        elif change > 0:
            event, rho, b, d, v = "again", rho / 5, start, first, np.zeros_like(d)
        elif not growing:
            event, rho = "smaller", rho / 5
        else:
            events.append("stable")
            break
        events.append(event)
        rho = min(rho, 1e6)
        if iteration > 30 and change / kept < 3e-4:
            events.append("settled")
            break
    mask = largest(b, keep, m, alive)
    return least_squares(h, goal, b, mask, steps) / norms[:, None], mask, events
