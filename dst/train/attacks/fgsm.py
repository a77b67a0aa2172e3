"""FGSM (Goodfellow et al. 2015): one step to the edge of the ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dst.core.typing import Array, ArrayLike, Float
from dst.train.attacks.ball import Ball


@dataclass(frozen=True)
class FGSM:
    """``d = epsilon sign(dL/dx)``; in the L2 norm ``epsilon g / |g|``.

    Args:
      ball: where perturbations lie.

    Example:
      >>> attack = FGSM(Ball(0.5))
      >>> def loss(x):
      ...     return x @ jnp.array([3.0, -2.0])
      >>> attack(loss, jnp.array([[1.0, 1.0]])).tolist()
      [[0.5, -0.5]]

    References:
      Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples" (arXiv 1412.6572),
      section 4.

    Checked against: the worst input of a linear classifier, which the paper has in closed form, in
    tests/train/test_attacks.py.
    """

    ball: Ball

    def __call__(
        self,
        loss: Callable[[Array], Array],
        inputs: Float[Array, "*shape"],
        key: Array | None = None,
        epsilon: ArrayLike | None = None,
    ) -> Float[Array, "*shape"]:
        """Perturbations of the raw inputs; :meth:`Ball.moved` applies them.

        Args:
          loss: from inputs, as the network reads them, to the loss of each, ``[n]``.
          inputs: as the network reads them.
          key: nothing is random.
          epsilon: radius, or ``[n]`` of each input; None: that of the ball.
        """
        grad = gradient(loss, self.ball, inputs, jnp.zeros_like(inputs))
        radii = self.ball.radii(inputs, epsilon)
        step = self.ball.steepest(grad) * self.ball.per_input(radii, inputs)
        return self.ball.project(step, inputs, radii)


def gradient(
    loss: Callable[[Array], Array], ball: Ball, inputs: Array, delta: Array
) -> Float[Array, "*shape"]:
    """Of the loss of each input with respect to its perturbation."""
    return jax.grad(lambda d: jnp.sum(loss(ball.moved(inputs, d))))(delta)
