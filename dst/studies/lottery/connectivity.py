"""Linear mode connectivity: the error on the line between two solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jax.typing import ArrayLike

from dst.core import checks

STABLE = 0.02  # an error barrier below two percentage points counts as none


@dataclass(frozen=True)
class Line:
    """The errors between two solutions.

    Attributes:
      positions: from 0, the first solution, to 1, the second.
      errors: fraction of wrong answers at each position.
    """

    positions: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def instability(self) -> float:
        """See :func:`instability`."""
        return instability(self.errors)


def instability(errors: Sequence[float]) -> float:
    """The error barrier on a line: the largest error less the mean of the errors at both ends.

    Args:
      errors: at the positions of a line, both ends included, in any unit.

    Raises:
      ValueError: fewer than two.

    Example:
      >>> round(instability([5.0, 9.6, 5.4]), 6)
      4.4

    References: Frankle et al. 2020 (arXiv 1912.05671, section 2).
    Checked against: the paper's description; eleven errors by hand,
    tests/studies/lottery/test_pruning.py::test_instability_is_the_barrier_above_both_ends.
    """
    if len(errors) < 2:
        raise ValueError(f"a line has at least its two ends, got {len(errors)} errors.")
    return max(errors) - (errors[0] + errors[-1]) / 2


def line(
    evaluate: Callable[[Mapping[str, np.ndarray]], float],
    first: Mapping[str, ArrayLike],
    second: Mapping[str, ArrayLike],
    points: int = 30,
) -> Line:
    """Errors on the line ``(1 - a) first + a second``.

    Weights that are zero in both stay exactly zero. Networks with statistics of their
    activations (BatchNorm) must have these computed again at every position, by ``evaluate``.

    Args:
      evaluate: the error, a fraction, of weights by leaf path.
      first, second: weights by leaf path, of the same leaves.
      points: of the line, ends included; the paper takes 30.

    Raises:
      ValueError: different leaves or shapes.
    """
    checks.integer("points", points, at_least=2)
    shapes = [{p: np.shape(w) for p, w in side.items()} for side in (first, second)]
    if shapes[0] != shapes[1]:
        differing = sorted(p for p, _ in shapes[0].items() ^ shapes[1].items())
        raise ValueError(f"both ends of a line must have the same leaves; differing: {differing}.")
    positions = [i / (points - 1) for i in range(points)]
    errors = []
    for a in positions:
        between = {
            p: ((1 - a) * np.asarray(w) + a * np.asarray(second[p])).astype(np.asarray(w).dtype)
            for p, w in first.items()
        }
        errors.append(float(evaluate(between)))
    return Line(tuple(positions), tuple(errors))
