"""Continuous sparsification (Savarese et al. 2020): soft masks whose temperature falls."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.fields import AboveZero, NotNegative, Sparsity
from dst.rules.latent import Latent, LatentLeaf, TrainedScores, above_zero
from dst.rules.method import method, named
from dst.rules.schedule import Duration, Schedule, UpdateSchedule, resolve

_HINT = "The authors' temperature falls over the whole of a round."


@named("continuous-sparsification", kind="latent weights")
@method
class ContinuousSparsification:
    """Uses ``w sigmoid(beta s) / sigmoid(start)`` and trains w and the scores s.

    ``beta`` rises from 1 to ``last_beta`` as ``last_beta ** (t / stop)``. From ``stop`` on, weights
    of positive score are in use as ``w / sigmoid(start)``, and the connections stay. ``penalty``
    times the sum of all masks is added to the loss. The sparsity is an outcome of training.

    Args:
      expected: the sparsity, in [0, 1), that plans and costs assume. 0: all leaves stay dense.
      start: of s; the lower, the sparser.
      last_beta: at least 1.
      penalty: lambda.
      stop: when masks become hard; steps or percent.

    Example:
      >>> round(float(ContinuousSparsification(expected=0.9, stop=100).rule().softness(50)), 4)
      0.0707

    References:
      Savarese et al. 2020, "Winning the Lottery with Continuous Sparsification"
      (arXiv 1912.04427).

    Checked against: lolemacs/continuous-sparsification at 2063fe1, models/layers.py
    (``compute_mask``), and its main.py (temperature, penalty); numbers by hand, a NumPy twin and
    autodiff, tests/methods/test_learned_masks.py.
    Differs from the code: one round, without rewinding; beta rises at every step, there at every
    epoch; one optimizer and weight decay for both; soft masks are evaluated before ``stop``.
    """

    expected: Sparsity
    start: float = -0.01
    last_beta: AboveZero = 200.0
    penalty: NotNegative = 1e-8
    stop: Duration = "100%"

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        if self.last_beta < 1:
            raise ValueError(
                f"last_beta must be at least 1, got {self.last_beta}. It rises from 1."
            )
        stop = max(resolve("stop", self.stop, steps, _HINT), 1)
        scale = 1 + math.exp(-self.start)

        def start(weight: Array, leaf: Leaf, key: Array) -> Array:
            return jnp.full_like(weight, self.start)

        def slope(leaf: LatentLeaf) -> Array:
            m, beta = mask(leaf), 1 / jnp.where(leaf.softness > 0, leaf.softness, 1.0)
            pull = leaf.grad * leaf.latent + jnp.float32(self.penalty)
            return jnp.where(leaf.softness > 0, scale * pull * beta * m * (1 - m), 0.0)

        return Latent(
            self.expected,
            scores=TrainedScores(start, slope),
            score=lambda leaf: leaf.scores,
            counts=above_zero,
            weight=lambda leaf: leaf.latent * (scale * mask(leaf)),
            gradient=lambda leaf: leaf.grad * (scale * mask(leaf)),
            when=UpdateSchedule(0, 1, stop - 1),
            softness=temperature(self.last_beta, stop),
        )


def mask(leaf: LatentLeaf) -> Array:
    """``sigmoid(beta s)`` while masks are soft, then 0 or 1."""
    soft = jax.nn.sigmoid(leaf.scores / jnp.where(leaf.softness > 0, leaf.softness, 1.0))
    return jnp.where(leaf.softness > 0, soft, leaf.active.astype(jnp.float32))


def temperature(last_beta: float, stop: int) -> Schedule:
    """``1 / beta``: from 1 along an exponential, and 0 from ``stop`` on."""

    def softness(count: Any) -> Any:
        done = jnp.asarray(count, jnp.float32) / stop
        return jnp.where(jnp.asarray(count) >= stop, 0.0, last_beta**-done)

    return softness
