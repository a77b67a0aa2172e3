"""Hard concrete gates: random numbers between 0 and 1 that are often exactly 0 or 1.

``z = clip(1.2 sigmoid((logit(u) + log alpha) / temperature) - 0.1, 0, 1)`` with u uniform.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dst.core.draws import uniform
from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.structure import Structure

_LOW, _HIGH = -0.1, 1.1  # gamma and zeta, between which gates are stretched
_EDGE = 1e-6  # of the uniform numbers


def gate(log_alpha: Array, temperature: float, key: Array, drawn: Any) -> Array:
    """Gates in [0, 1].

    Args:
      log_alpha: float32.
      temperature: above 0.
      key: of the uniform numbers.
      drawn: whether there is noise; without it, the temperature is 1.
    """
    u = jnp.clip(uniform(key, log_alpha), _EDGE, 1 - _EDGE)
    noisy = (jnp.log(u) - jnp.log1p(-u) + log_alpha) / temperature
    s = jax.nn.sigmoid(jnp.where(drawn, noisy, log_alpha))
    return jnp.clip(s * (_HIGH - _LOW) + _LOW, 0.0, 1.0)


def alive(log_alpha: Array, temperature: float) -> Array:
    """The probability that a drawn gate is not 0."""
    return jax.nn.sigmoid(log_alpha - temperature * math.log(-_LOW / _HIGH))


def start(leaf: Leaf, structure: Structure, drop_rate: float, key: Array) -> Array:
    """Normal ``log alpha`` of deviation 0.01 around the logit of what is not dropped.

    Of the shape of the weight, with 1 for the axes that share a gate.

    Raises:
      ValueError: units that are parts of axes.
    """
    layout = structure.layout(leaf)
    if layout.split != leaf.shape or len(layout.groups) > len(layout.counts):
        raise ValueError(
            f"{leaf.path}: a gate belongs to a weight, an input or an output, not to {structure}. "
            "Choose dst.Unstructured(), dst.InputChannel() or dst.OutputChannel()."
        )
    shape = tuple(1 if a in layout.members else n for a, n in enumerate(leaf.shape))
    u = jnp.clip(uniform(key, jnp.zeros(shape, jnp.float32)), _EDGE, 1 - _EDGE)
    return math.log(1 / drop_rate - 1) + 0.01 * math.sqrt(2) * lax.erf_inv(2 * u - 1)
