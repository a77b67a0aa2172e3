"""PGD (Madry et al. 2018): steps up the loss, each projected back into the ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dst.core import checks
from dst.core.typing import Array, ArrayLike, Float
from dst.train.attacks.ball import Ball
from dst.train.attacks.fgsm import gradient

START_DEVIATION = 1e-3  # of the authors of TRADES

Start = Literal["uniform", "normal", "zero"]


@dataclass(frozen=True)
class PGD:
    """``d <- project(d + step_size steepest(dL/dd))``, so many times.

    Args:
      ball: where perturbations lie.
      steps: >= 1; a loop of the compiled program, in which convolutions are slow on CPU.
      step_size: > 0, in raw units; None: ``2.5 epsilon / steps``, so that every point of the ball
        can be reached from every other.
      start: ``uniform`` in the ball; ``normal``, with deviation 0.001 in raw units; ``zero``.

    Example:
      >>> attack = PGD(Ball(0.5), steps=5)
      >>> def loss(x):
      ...     return x @ jnp.array([3.0, -2.0])
      >>> attack(loss, jnp.array([[1.0, 1.0]]), jax.random.key(0)).tolist()
      [[0.5, -0.5]]

    References:
      Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks" (arXiv
      1706.06083); the step size is that of their attacks in the L2 norm.

    Checked against: MadryLab/cifar10_challenge at 2fbf5bbe, pgd_attack.py, written again in NumPy;
    the worst input of a linear classifier in closed form; tests/train/test_attacks.py.
    Differs from the code: random numbers are JAX's. An input outside of the range is not moved
    into it.
    """

    ball: Ball
    steps: int = 10
    step_size: float | None = None
    start: Start = "uniform"

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, at_least=1)
        if self.step_size is not None:
            checks.above_zero("step_size", self.step_size)
        checks.one_of("start", self.start, ("uniform", "normal", "zero"))

    def __call__(
        self,
        loss: Callable[[Array], Array],
        inputs: Float[Array, "*shape"],
        key: Array,
        epsilon: ArrayLike | None = None,
    ) -> Float[Array, "*shape"]:
        """Perturbations of the raw inputs; :meth:`Ball.moved` applies them.

        Args:
          loss: from inputs, as the network reads them, to the loss of each, ``[n]``.
          inputs: as the network reads them.
          key: of the start.
          epsilon: radius, or ``[n]`` of each input; None: that of the ball.
        """
        ball = self.ball
        radii = ball.radii(inputs, epsilon)
        size = 2.5 * radii / self.steps
        if self.step_size is not None:
            size = jnp.full_like(radii, self.step_size)
        length = ball.per_input(size, inputs)

        def step(_: Array, delta: Array) -> Array:
            grad = gradient(loss, ball, inputs, delta)
            return ball.project(delta + length * ball.steepest(grad), inputs, radii)

        return lax.fori_loop(0, self.steps, step, self._first(inputs, key, radii))

    def _first(self, inputs: Array, key: Array, radii: Array) -> Array:
        if self.start == "zero":
            return jnp.zeros_like(inputs)
        if self.start == "uniform":
            return self.ball.drawn(inputs, key, radii)
        drawn = START_DEVIATION * jax.random.normal(key, inputs.shape, jnp.float32)
        return self.ball.project(drawn.astype(inputs.dtype), inputs, radii)
