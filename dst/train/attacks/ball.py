"""The perturbations that an attack may choose from: a ball around each input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.draws import uniform
from dst.core.text import shown
from dst.core.typing import Array, ArrayLike, Float

Norm = Literal["linf", "l2"]
_TINY = 1e-30  # below the norm of any gradient that is not zero


@dataclass(frozen=True)
class Ball:
    """``{d : |d| <= epsilon, low <= raw + d <= high}``, for every input by itself.

    Data sets normalise: a network reads ``(raw - mean) / std``. Perturbations, ``epsilon`` and
    ``clip`` are in the units of the raw inputs. With ``mean`` 0 and ``std`` 1, the units are those
    that the network reads.

    Args:
      epsilon: radius, >= 0.
      norm: over all entries of an input: ``linf``, the largest size; ``l2``, the Euclidean length.
      clip: smallest and largest raw input; None: inputs may have any value.
      mean, std: of the normalisation, one number or one per entry of the last axis; ``std`` > 0.

    Raises:
      ValueError: a value outside of its range.

    Example:
      >>> ball = Ball(0.5, clip=(0.0, 1.0))
      >>> x, step = jnp.array([[0.25, 0.25, 0.9]]), jnp.array([[2.0, -2.0, 2.0]])
      >>> [round(d, 2) for d in ball.project(step, x).tolist()[0]]
      [0.5, -0.25, 0.1]

    Checked against: the closed form of the worst input of a linear classifier, and bounds on random
    cases: tests/train/test_attacks.py.
    """

    epsilon: float
    norm: Norm = "linf"
    clip: tuple[float, ...] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        checks.at_least_zero("epsilon", self.epsilon)
        checks.one_of("norm", self.norm, ("linf", "l2"))
        if self.clip is not None:
            good = len(self.clip) == 2 and all(map(checks.is_number, self.clip))
            if not good or not self.clip[0] < self.clip[1]:
                raise ValueError(
                    "clip must be the smallest and the largest raw input, such as [0, 1], got "
                    f"{shown(list(self.clip))}."
                )
        for name in ("mean", "std"):
            checks.not_empty(name, value := getattr(self, name))
            for i, number in enumerate(value):
                if name == "std":
                    checks.above_zero(f"std[{i}]", number)
                elif not checks.is_number(number):
                    raise ValueError(f"mean[{i}] must be a finite number, got {shown(number)}.")

    def check(self, inputs: Any) -> None:
        """Raises unless inputs, as the network reads them, can be perturbed in this ball.

        Args:
          inputs: an array with a leading axis of examples.

        Raises:
          ValueError: inputs that are no real numbers, ``mean`` or ``std`` of another length than
            their last axis, or raw inputs outside of ``clip``.
        """
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise ValueError(
                f"an attack changes inputs a little, so they must be real numbers, got "
                f"{inputs.dtype}. Tokens and categories cannot be attacked so."
            )
        for name in ("mean", "std"):
            entries = len(getattr(self, name))
            if entries != 1 and (inputs.ndim < 2 or entries != inputs.shape[-1]):
                raise ValueError(
                    f"{name} must have one number, or one per entry of the last axis of inputs "
                    f"{list(inputs.shape[1:])}, got {entries}."
                )
        if self.clip is not None and not isinstance(inputs, jax.core.Tracer):
            raw = np.asarray(self.raw(jnp.asarray(inputs)))
            slack = 1e-3 * (self.clip[1] - self.clip[0])
            low, high = raw.min(), raw.max()
            if low < self.clip[0] - slack or high > self.clip[1] + slack:
                raise ValueError(
                    f"clip is {list(self.clip)}, but raw inputs go from {low:.4g} to {high:.4g}. "
                    "Set mean and std as the data set normalises, or leave clip out."
                )

    def raw(self, inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Inputs before normalisation."""
        return inputs * self._like(self.std, inputs) + self._like(self.mean, inputs)

    def sizes(self, delta: Float[Array, "*shape"]) -> Float[Array, " n"]:
        """The norm of each perturbation."""
        axes = tuple(range(1, delta.ndim))
        if self.norm == "linf":
            return jnp.max(jnp.abs(delta), axes, initial=0.0)
        return jnp.sqrt(jnp.sum(delta**2, axes))

    def steepest(self, grad: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The direction of length 1 in which a loss with this gradient rises most.

        ``sign(g)`` in the L-infinity norm, ``g / |g|`` in the L2 norm; zero for no gradient.
        """
        if self.norm == "linf":
            return jnp.sign(grad)
        # Of the largest entry first: squares of small gradients would vanish.
        largest = jnp.max(jnp.abs(grad), tuple(range(1, grad.ndim)), initial=0.0)
        scaled = grad / self.per_input(jnp.maximum(largest, _TINY), grad)
        return scaled / self.per_input(jnp.maximum(self.sizes(scaled), _TINY), grad)

    def project(
        self,
        delta: Float[Array, "*shape"],
        inputs: Float[Array, "*shape"],
        epsilon: ArrayLike | None = None,
    ) -> Float[Array, "*shape"]:
        """Perturbations inside of the ball: cut to its radius, then to the range of inputs.

        Where an input lies outside of ``clip``, it may not move further out. Every entry shrinks
        towards zero, so the second cut keeps the radius.

        Args:
          delta: perturbations.
          inputs: as the network reads them.
          epsilon: radius, or ``[n]`` of each input; None: that of the ball.
        """
        radius = self.per_input(self.radii(inputs, epsilon), delta)
        if self.norm == "linf":
            delta = jnp.clip(delta, -radius, radius)
        else:
            sizes = self.per_input(self.sizes(delta), delta)
            delta = delta * jnp.minimum(1.0, radius / jnp.maximum(sizes, _TINY))
        if self.clip is not None:
            raw = self.raw(inputs)
            below = jnp.minimum(self.clip[0] - raw, 0.0)
            delta = jnp.clip(delta, below, jnp.maximum(self.clip[1] - raw, 0.0))
        return delta

    def drawn(
        self,
        inputs: Float[Array, "*shape"],
        key: Array,
        epsilon: ArrayLike | None = None,
    ) -> Float[Array, "*shape"]:
        """Perturbations that are uniform in the ball without ``clip``, then cut to it."""
        first, second = jax.random.split(key)
        radius = self.per_input(self.radii(inputs, epsilon), inputs)
        if self.norm == "linf":
            delta = (2 * uniform(first, inputs) - 1) * radius
        else:
            direction = self.steepest(jax.random.normal(first, inputs.shape, jnp.float32))
            share = uniform(second, inputs[(slice(None), *[0] * (inputs.ndim - 1))])
            entries = max(inputs[0].size, 1)
            delta = direction * self.per_input(share ** (1 / entries), inputs) * radius
        return self.project(delta.astype(inputs.dtype), inputs, epsilon)

    def moved(
        self, inputs: Float[Array, "*shape"], delta: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """Inputs, as the network reads them, after perturbations of the raw ones."""
        new = inputs + delta / self._like(self.std, inputs)
        if self.clip is None:
            return new
        ends = jnp.asarray(self.clip, inputs.dtype)  # rounding could leave the range
        mean, std = self._like(self.mean, inputs), self._like(self.std, inputs)
        low, high = (ends[0] - mean) / std, (ends[1] - mean) / std
        return jnp.clip(new, jnp.minimum(low, inputs), jnp.maximum(high, inputs))

    def radii(self, inputs: Float[Array, "*shape"], epsilon: ArrayLike | None) -> Array:
        """The radius of each input, ``[n]``."""
        radius = jnp.asarray(self.epsilon if epsilon is None else epsilon, inputs.dtype)
        return jnp.broadcast_to(radius, inputs.shape[:1])

    def per_input(self, numbers: Array, like: Array) -> Array:
        """A number per input, to be combined with inputs."""
        return jnp.expand_dims(numbers, tuple(range(1, like.ndim)))

    def _like(self, numbers: tuple[float, ...], inputs: Array) -> Array:
        """A number for all or per entry of the last axis, to be combined with inputs."""
        value = jnp.asarray(numbers, inputs.dtype)
        return value.reshape((1,) * (inputs.ndim - 1) + (len(numbers),))
