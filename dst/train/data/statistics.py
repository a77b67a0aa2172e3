"""Means and standard deviations, by which inputs and targets are normalised."""

from __future__ import annotations

import numpy as np

Numbers = tuple[float, ...]


def moments(inputs: np.ndarray, scale: float = 1.0) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation per channel; 1 for a channel that never changes.

    Args:
      inputs: ``[..., channels]``.
      scale: what counts as 1.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    parts = np.array_split(rows, max(1, len(rows) // 2**20))
    mean = sum(x.sum(0, dtype=np.float64) for x in parts) / len(rows)
    std = np.sqrt(sum(((x - mean) ** 2).sum(0) for x in parts) / len(rows))
    return rounded(mean, std, scale)


def rounded(mean: np.ndarray, std: np.ndarray, scale: float) -> tuple[Numbers, Numbers]:
    """The same as tuples; a deviation that rounding alone makes becomes 1."""
    std = np.where(std <= 1e-9 * np.abs(mean), 1, std / scale)
    return tuple((mean / scale).tolist()), tuple(std.tolist())


def standardised(values: np.ndarray, mean: Numbers, std: Numbers) -> np.ndarray:
    """``(values - mean) / std``, float32 ``[..., channels]``; computed in float64, in parts."""
    result = np.empty(values.shape, np.float32)
    step = max(1, 2**20 // max(1, values[:1].size))
    for i in range(0, len(values), step):
        result[i : i + step] = (values[i : i + step] - np.array(mean)) / np.array(std)
    return result


def check_length(mean: Numbers, std: Numbers, expected: int, of: str) -> None:
    """Raises unless there is a number for each channel."""
    if not len(mean) == len(std) == expected:
        raise ValueError(
            f"data.mean and data.std must have {expected} numbers, one for each channel of inputs "
            f"{of}, got {len(mean)} and {len(std)}."
        )


def check_given(mean: Numbers | None, std: Numbers | None, prefix: str = "") -> None:
    """Raises unless both are given or none is, and deviations are above 0."""
    if (mean is None) != (std is None):
        raise ValueError(f"{prefix}mean and {prefix}std must both be given, or both be null.")
    if std is not None and min(std, default=0) <= 0:
        raise ValueError(f"{prefix}std must be numbers > 0, got {list(std)}.")
