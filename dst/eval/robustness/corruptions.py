"""Corrupted inputs (Hendrycks and Dietterich 2019): Gaussian noise and blur."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from dst.core import checks
from dst.train.attacks import Ball

# Five severities of images in [0, 1]: noise of ImageNet-C, blur of CIFAR-10-C.
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
BLUR = (0.4, 0.6, 0.7, 0.8, 1.0)


def noisy(
    inputs: np.ndarray, deviation: float, ball: Ball | None = None, seed: int = 0
) -> np.ndarray:
    """Raw inputs plus Gaussian noise, in the range of raw inputs.

    Args:
      inputs: floats ``[n, ...]``, as a network reads them.
      deviation: of the noise, in raw units, >= 0.
      ball: that says how raw inputs were normalised and what range they have; its radius is not
        used. None: they were not normalised, and may have any value.
      seed: of the noise.

    Example:
      >>> x = np.zeros((1, 10_000), np.float32)
      >>> round(float(noisy(x, 0.5).std()), 2)
      0.5

    References:
      Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions
      and Perturbations" (arXiv 1903.12261).
    """
    checks.at_least_zero("deviation", deviation)
    noise = np.random.default_rng(seed).normal(size=inputs.shape)
    return _in_range(_raw(inputs, ball) + deviation * noise, inputs, ball)


def blurred(inputs: np.ndarray, deviation: float, ball: Ball | None = None) -> np.ndarray:
    """Raw inputs after a Gaussian blur of their spatial axes.

    Args:
      inputs: floats ``[n, length, channels]`` or ``[n, height, width, channels]``.
      deviation: of the Gaussian, in pixels, >= 0. It ends at four deviations; beyond the border
        the nearest pixel is repeated.
      ball: as of :func:`noisy`.

    Raises:
      ValueError: inputs without a spatial axis.

    Example:
      >>> x = np.zeros((1, 5, 1), np.float32)
      >>> x[0, 2] = 1
      >>> [round(v, 3) for v in blurred(x, 0.5)[0, :, 0].tolist()]
      [0.0, 0.106, 0.787, 0.106, 0.0]

    Checked against: the Gaussian's own values, tests/eval/robustness/test_robustness.py.
    """
    checks.at_least_zero("deviation", deviation)
    if not has_space(inputs):
        raise ValueError(
            "a blur needs inputs [n, length, channels] or [n, height, width, channels], got "
            f"{list(inputs.shape)}. Leave it out."
        )
    widths = (0.0, *[deviation] * (inputs.ndim - 2), 0.0)
    blurry = gaussian_filter(_raw(inputs, ball), widths, mode="nearest")
    return _in_range(blurry, inputs, ball)


def has_space(inputs: np.ndarray) -> bool:
    """Whether inputs have spatial axes: all but the first, and the channels at the end."""
    return inputs.ndim > 2


def _raw(inputs: np.ndarray, ball: Ball | None) -> np.ndarray:
    wide = np.asarray(inputs, np.float64)
    return wide if ball is None else wide * np.array(ball.std) + np.array(ball.mean)


def _in_range(raw: np.ndarray, inputs: np.ndarray, ball: Ball | None) -> np.ndarray:
    if ball is not None:
        raw = raw if ball.clip is None else np.clip(raw, ball.clip[0], ball.clip[1])
        raw = (raw - np.array(ball.mean)) / np.array(ball.std)
    return raw.astype(inputs.dtype)
