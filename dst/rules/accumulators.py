"""Accumulators: what a rule collects of the raw gradients from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from dst.core.typing import Array


class Observation(NamedTuple):
    """What an accumulator sees of one leaf at every step.

    Attributes:
      grad: the raw (dense) gradient, float32.
      weight: float32; exactly 0 where inactive.
      active: the mask.
      steps_left: int32 updates until the next topology step; 0 at one; 2^31 - 1 after the last.
    """

    grad: Array
    weight: Array
    active: Array
    steps_left: Array


class Accumulator(NamedTuple):
    """What a rule collects, per leaf.

    Attributes:
      init: from the weight (float32) to arrays of its shape, derived from it so that they are
        sharded alike.
      observe: ``(accumulated, Observation) -> accumulated``, in every step, before a topology
        step reads it.
      window: how many steps up to and with a topology step need the gradient of inactive
        weights; None: all steps do. The cost of training follows from it.
    """

    init: Callable[[Array], Any]
    observe: Callable[[Any, Observation], Any]
    window: int | None = None


def momentum(beta: float) -> Accumulator:
    """``m = beta m + g`` of the raw gradient: dense, where the optimizer's own is zero off-mask."""

    def observe(accumulated: Array, now: Observation) -> Array:
        return jnp.float32(beta) * accumulated + now.grad

    return Accumulator(jnp.zeros_like, observe)


def window(steps: int) -> Accumulator:
    """The mean raw gradient over the last ``steps`` steps up to and with the topology step."""

    def observe(accumulated: Array, now: Observation) -> Array:
        inside = now.steps_left < steps
        first = now.steps_left == steps - 1
        before = jnp.where(first, jnp.zeros_like(accumulated), accumulated)
        return jnp.where(inside, before + now.grad / jnp.float32(steps), accumulated)

    return Accumulator(jnp.zeros_like, observe, steps)
