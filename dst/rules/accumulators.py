"""Accumulators: what a rule sums up of the raw gradients over steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dst.core import checks
from dst.core.typing import Array, PyTree


class Observation(NamedTuple):
    """The inputs of an accumulator: one leaf at one step.

    Attributes:
      grad: the raw (dense) gradient, float32.
      weight: float32; exactly 0 where inactive.
      active: the mask.
      steps_left: int32 updates until the next topology step: 0 at one, 2^31 - 1 after the last.
      dropped: int32 scalar, connections of all leaves that the last topology step dropped, where
        the update before this one was a topology step; -1 where it was not.
    """

    grad: Array
    weight: Array
    active: Array
    steps_left: Array
    dropped: Array


class Accumulator(NamedTuple):
    """How a rule sums up raw gradients, per leaf.

    Attributes:
      init: from the weight (float32) to a pytree of arrays of its shape, or of scalars. Compute the
        arrays from the weight, so that they have its sharding.
      observe: ``(accumulated, Observation) -> accumulated``, called in every step, before a
        topology step reads the result.
      window: how many steps, the topology step included, need the gradient of inactive weights.
        None: all steps do. The cost of training follows from it.
    """

    init: Callable[[Array], PyTree]
    observe: Callable[[PyTree, Observation], PyTree]
    window: int | None = None


def momentum(beta: float) -> Accumulator:
    """``m = beta m + g`` of the raw gradient, also where the optimizer's momentum is zero.

    Args:
      beta: in [0, 1).
    """

    def observe(accumulated: Array, now: Observation) -> Array:
        return jnp.float32(beta) * accumulated + now.grad

    return Accumulator(jnp.zeros_like, observe)


def adams_moments(b1: float, b2: float) -> Accumulator:
    """``m = b1 m + (1 - b1) g`` and ``v = b2 v + (1 - b2) g^2`` of the raw gradient.

    Args:
      b1, b2: in [0, 1).
    """
    first, second = jnp.float32(b1), jnp.float32(b2)

    def init(weight: Array) -> PyTree:
        return {"m": jnp.zeros_like(weight), "v": jnp.zeros_like(weight)}

    def observe(accumulated: PyTree, now: Observation) -> PyTree:
        return {
            "m": first * accumulated["m"] + (1 - first) * now.grad,
            "v": second * accumulated["v"] + (1 - second) * jnp.square(now.grad),
        }

    return Accumulator(init, observe)


def window(steps: int) -> Accumulator:
    """The mean raw gradient over the last ``steps`` steps, the topology step included.

    Args:
      steps: at least 1.
    """

    def observe(accumulated: Array, now: Observation) -> Array:
        inside = now.steps_left < steps
        first = now.steps_left == steps - 1
        before = jnp.where(first, jnp.zeros_like(accumulated), accumulated)
        return jnp.where(inside, before + now.grad / jnp.float32(steps), accumulated)

    return Accumulator(jnp.zeros_like, observe, steps)


#: The weights of initialisation; no gradient is added.
FIRST_WEIGHTS = Accumulator(jnp.copy, lambda accumulated, now: accumulated, window=1)


def threshold(start: float, target: int) -> Accumulator:
    """DSR's threshold: a scalar that is halved where a topology step drops more than 1.1 times
    ``target`` connections of all layers, and doubled where it drops fewer than 0.9 times.

    Args:
      start: above 0.
      target: connections per topology step.
    """
    # As integers, without rounding: 10 n > 11 target, 10 n < 9 target.
    most, least = min(11 * target // 10, checks.LARGEST), -(-9 * target // 10)

    def observe(value: Array, now: Observation) -> Array:
        many, few = now.dropped > most, now.dropped < least
        new = jnp.where(many, value / 2, jnp.where(few, value * 2, value))
        # From zero, doubling would lead nowhere.
        new = jnp.clip(new, jnp.float32(2.0**-100), jnp.float32(2.0**100))
        return jnp.where(now.dropped >= 0, new, value)

    return Accumulator(lambda weight: jnp.full([], start, jnp.float32), observe, window=0)
