"""How well tasks are remembered: figures of the accuracy matrix.

Row i of the matrix R has the test accuracies after task i was learned, of tasks 0 to i:
``R[i][j]`` is that of task j.
"""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def average_accuracy(matrix: Matrix) -> float:
    """``1/T sum_j R[T-1][j]``: the mean accuracy over all tasks, after the last one.

    Args:
      matrix: accuracies in [0, 1]; row i has i + 1 entries.

    Raises:
      ValueError: rows of other lengths, or none.

    Example:
      >>> average_accuracy([[0.9], [0.6, 0.8]])
      0.7

    References: Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory for Continual Learning"
    (arXiv 1706.08840), ACC.
    Checked against: tables by hand, tests/studies/continual/test_metrics.py;
    facebookresearch/GradientEpisodicMemory at 1919989, metrics/metrics.py (``fin.mean()``).
    """
    _check(matrix)
    return sum(matrix[-1]) / len(matrix)


def backward_transfer(matrix: Matrix) -> float | None:
    """``1/(T-1) sum_{j<T-1} R[T-1][j] - R[j][j]``: what later tasks did to earlier ones.

    Args:
      matrix: as of :func:`average_accuracy`.

    Returns:
      In [-1, 1], negative where tasks were forgotten; None for a single task.

    Example:
      >>> round(backward_transfer([[0.9], [0.6, 0.8]]), 6)
      -0.3

    References: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), BWT, equation 3.
    Checked against: tables by hand, tests/studies/continual/test_metrics.py.
    Differs from the code: facebookresearch/GradientEpisodicMemory at 1919989, metrics/metrics.py,
    divides by T, as it counts the last task, whose difference is 0. The paper divides by T - 1.
    """
    _check(matrix)
    earlier = len(matrix) - 1
    changes = [matrix[-1][j] - matrix[j][j] for j in range(earlier)]
    return sum(changes) / earlier if earlier else None


def forgetting(matrix: Matrix) -> float | None:
    """``1/(T-1) sum_{j<T-1} max_{j<=i<T-1} R[i][j] - R[T-1][j]``: what was lost of the best.

    Args:
      matrix: as of :func:`average_accuracy`.

    Returns:
      In [-1, 1], positive where tasks were forgotten; None for a single task.

    Example:
      >>> round(forgetting([[0.7], [0.9, 0.8], [0.6, 0.7, 1.0]]), 6)
      0.2

    References: Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning: Understanding
    Forgetting and Intransigence" (arXiv 1801.10112), section 3.2.
    Checked against: the paper's formula, by tables worked by hand,
    tests/studies/continual/test_metrics.py. No code of the authors was read.
    """
    _check(matrix)
    earlier = len(matrix) - 1
    best = [max(matrix[i][j] for i in range(j, earlier)) for j in range(earlier)]
    lost = [best[j] - matrix[-1][j] for j in range(earlier)]
    return sum(lost) / earlier if earlier else None


def _check(matrix: Matrix) -> None:
    lengths = [len(row) for row in matrix]
    if not lengths or lengths != list(range(1, len(matrix) + 1)):
        raise ValueError(
            "an accuracy matrix must have one entry in its first row and one more in each further "
            f"row, got rows of {lengths} entries."
        )
