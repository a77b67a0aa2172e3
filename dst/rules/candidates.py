"""Candidate masks of N:M groups, and logits that choose among them.

Weights are ``[..., inputs, outputs]``, logits ``[..., inputs / m * candidates, outputs]``: the
logits of a group follow each other.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.draws import uniform
from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.schedule import Schedule

_MOST = 100  # candidates: each is a logit per group
_LEAST = 2.0**-25  # below all uniform numbers but zero


def candidates(n: int, m: int) -> np.ndarray:
    """All masks of ``n`` of ``m``, float32 ``[candidates, m]``: 1100, 1010, 1001, 0110, ..."""
    chosen = list(itertools.combinations(range(m), n))
    if len(chosen) > _MOST:
        raise ValueError(
            f"a group has a logit per candidate: expected at most {_MOST}, found {len(chosen)} for "
            f"{n}:{m}. Choose a smaller m."
        )
    return np.array([[float(i in c) for i in range(m)] for c in chosen], np.float32)


def _grouped(x: Array, size: int) -> Array:
    """``[..., groups, size, outputs]`` from ``[..., groups * size, outputs]``."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // size, size, x.shape[-1])


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def _product(axes: str, every: np.ndarray, x: Array) -> Array:
    return jnp.einsum(axes, jnp.asarray(every), x, precision=lax.Precision.HIGHEST)


def overlaps(values: Array, every: np.ndarray) -> Array:
    """For each candidate the sum of the values that it keeps, in the shape of logits."""
    return _flat(_product("cm,...mo->...co", every, _grouped(values, every.shape[1])))


def with_prior(
    logits: Array, mask: Array, every: np.ndarray, strength: float, axes: tuple[int, ...]
) -> Array:
    """Logits raised by ``strength`` deviations for each connection in common above the half.

    Args:
      logits: ``[..., groups * candidates, outputs]``.
      mask: bool, of the shape of the weights.
      every: the candidates.
      strength: of the prior.
      axes: over which the deviation is taken.
    """
    common = overlaps(mask.astype(jnp.float32), every) - float(every[0].sum()) / 2
    return logits + strength * jnp.std(logits, axis=axes, ddof=1, keepdims=True) * common


def soft_mask(logits: Array, noise: Array, kappa: Any, tau: Any, every: np.ndarray) -> Array:
    """``softmax((kappa logits + noise) / tau) candidates``, of the shape of the weights."""
    y = jax.nn.softmax(_grouped((kappa * logits + noise) / tau, len(every)), axis=-2)
    return _flat(_product("cm,...co->...mo", every, y))


def hard_mask(logits: Array, every: np.ndarray) -> Array:
    """The candidate of the largest logit, float32; NaN where a logit is."""
    grouped = _grouped(logits, len(every))
    best = jax.nn.one_hot(jnp.argmax(grouped, axis=-2), len(every), axis=-2)
    broken = jnp.isnan(grouped).any(axis=-2, keepdims=True)
    return _flat(jnp.where(broken, jnp.nan, _product("cm,...co->...mo", every, best)))


def gumbel(key: Array, like: Array) -> Array:
    """Standard Gumbel noise of the shape of an array, by position."""
    return -jnp.log(-jnp.log(jnp.maximum(uniform(key, like), _LEAST)))


def start(
    weight: Array, leaf: Leaf, key: Array, every: np.ndarray, prior: Any, strength: float
) -> Array:
    """Normal logits of deviation 0.01, raised where candidates agree with a prior.

    Args:
      weight: of the leaf.
      leaf: with one axis of inputs before one of outputs, at its end.
      key: of the draws.
      every: the candidates.
      prior: bool mask of the shape of the weight; None: the largest weights of every group.
      strength: of the prior.

    Raises:
      ValueError: other axes, a prior of another shape.
    """
    if "".join(leaf.letters).lstrip("k") != "io":
        raise ValueError(
            f"{leaf.path}: expected one axis of inputs before one of outputs, found axes "
            f"{' '.join(leaf.letters)}. Leave it dense: select=['!{leaf.path}']."
        )
    if prior is not None and jnp.shape(prior) != weight.shape:
        raise ValueError(
            f"{leaf.path}: expected a prior mask of shape {weight.shape}, got {jnp.shape(prior)}."
        )
    if prior is None:
        prior = hard_mask(overlaps(jnp.abs(weight), every), every)
    rows = weight.shape[-2] // every.shape[1] * len(every)
    like = jnp.zeros((*weight.shape[:-2], rows, weight.shape[-1]))
    u = jnp.maximum(uniform(jax.random.fold_in(key, 1), like), _LEAST)
    logits = 0.01 * jnp.sqrt(2.0) * lax.erf_inv(2 * u - 1)
    own = tuple(range(leaf.stacked, logits.ndim))
    return with_prior(logits, jnp.asarray(prior), every, strength, own)


@dataclass(frozen=True)
class Annealing:
    """How soft masks become hard.

    Attributes:
      n, m: the pattern.
      temperature: the first and the last; it falls along a line.
      scale: of logits; the first and the last.

    Raises:
      ValueError: a temperature that does not fall; too many candidates.
    """

    n: int
    m: int
    temperature: tuple[float, float]
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        first, last = self.temperature
        if last >= first:
            raise ValueError(
                "the temperature must fall: expected first_temperature above last_temperature, got "
                f"{first:g} and {last:g}."
            )
        candidates(self.n, self.m)

    @property
    def every(self) -> np.ndarray:
        """The candidates."""
        return candidates(self.n, self.m)

    def softness(self, stop: int) -> Schedule:
        """The temperature until ``stop``, and 0 from there on."""
        first, last = self.temperature

        def temperature(count: Any) -> Any:
            value = first + (last - first) * jnp.minimum(jnp.asarray(count) / max(stop, 1), 1.0)
            return jnp.where(jnp.asarray(count) >= stop, 0.0, value)

        return temperature

    def progress(self, softness: Array) -> Array:
        """The part of the time to ``stop`` that has passed, from the temperature."""
        first, last = self.temperature
        return (first - softness) / (first - last)

    def mask(self, logits: Array, softness: Array, key: Array | None) -> Array:
        """Soft masks with the noise of a key; 1 where the softness is 0."""
        assert key is not None  # the method draws
        first, last = self.scale
        kappa = first + (last - first) * self.progress(softness)
        noise = gumbel(jax.random.fold_in(key, 2), logits)
        soft = soft_mask(logits, noise, kappa, jnp.where(softness > 0, softness, 1.0), self.every)
        return jnp.where(softness > 0, soft, 1.0)
