"""The loss of a network on calibration data: its value, its gradients, its distance to another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import tree
from dst.core.text import shown
from dst.core.typing import Array, ArrayLike, Batch, Params, PyTree

Loss = Callable[[Params, Batch], ArrayLike]


class Gradients(NamedTuple):
    """Norms of the gradients of the loss, one gradient per batch, of the dense network.

    Attributes:
      batches: how many there are.
      absolute: float32, the sum of ``|g|``.
      norms: float32, the root of the sum of ``g^2``.
    """

    batches: int
    absolute: Array
    norms: Array


class Objective:
    """A loss as a compiled function of the leaves of a tree.

    Args:
      loss: ``loss(params, batch)``, a number.
      params: a tree whose leaves are given later.
    """

    def __init__(self, loss: Loss, params: Params):
        self.paths, _, treedef = tree.flatten(params)

        def value(leaves: Sequence[Array], batch: Batch) -> Array:
            result = loss(treedef.unflatten(leaves), batch)
            if jnp.shape(result) != () or not jnp.issubdtype(jnp.result_type(result), jnp.floating):
                raise ValueError(
                    "loss: expected loss(params, batch) to return one number, got "
                    f"{shown(result)}. Take the mean."
                )
            return jnp.asarray(result)

        self._value = value
        self._compiled = jax.jit(value)

    def __call__(self, leaves: Sequence[Array], batch: Batch) -> float:
        """The loss; not finite where it is not."""
        return float(self._compiled(leaves, batch))

    def gradient(
        self, numbers: Sequence[int]
    ) -> Callable[[Sequence[Array], Batch], Sequence[Array]]:
        """The gradients of the loss with respect to some leaves, by number; to be traced."""

        def of_chosen(some: Sequence[Array], leaves: Sequence[Array], batch: Batch) -> Array:
            filled = list(leaves)
            for i, leaf in zip(numbers, some, strict=True):
                filled[i] = leaf
            return self._value(filled, batch)

        def gradient(leaves: Sequence[Array], batch: Batch) -> Sequence[Array]:
            return jax.grad(of_chosen)([leaves[i] for i in numbers], leaves, batch)

        return gradient

    def gradients(
        self, leaves: Sequence[Array], batches: Sequence[Batch], chosen: Collection[str]
    ) -> dict[str, Gradients]:
        """Norms of the gradients over all batches, by leaf path.

        Args:
          leaves: of the tree.
          batches: one gradient each.
          chosen: paths of the leaves that are asked for.

        Raises:
          ValueError: a gradient that is not finite, naming the leaf.
        """
        numbers = [i for i, path in enumerate(self.paths) if path in chosen]
        gradient = self.gradient(numbers)

        @jax.jit
        def add(sums: Any, leaves: Sequence[Array], batch: Batch) -> Any:
            exact = [g.astype(jnp.float32) for g in gradient(leaves, batch)]
            return [
                (a + jnp.abs(g), s + jnp.square(g)) for (a, s), g in zip(sums, exact, strict=True)
            ]

        sums = [(jnp.zeros(leaves[i].shape, jnp.float32),) * 2 for i in numbers]
        for batch in batches:
            sums = add(sums, leaves, batch)
        for i, (absolute, _) in zip(numbers, sums, strict=True):
            if not bool(jnp.isfinite(absolute).all()):
                raise ValueError(
                    f"loss: expected a finite gradient of {self.paths[i]}, found NaN or infinity. "
                    "Check the batches, and divisions in the loss."
                )
        return {
            self.paths[i]: Gradients(len(batches), absolute, jnp.sqrt(squares))
            for i, (absolute, squares) in zip(numbers, sums, strict=True)
        }


def divergence(forward: Callable[[Params, Batch], PyTree], params: Params) -> Loss:
    """A loss: the distance from a dense model, the mean ``KL(dense || other)`` of its logits.

    Args:
      forward: ``forward(params, batch)``: logits ``[..., classes]``.
      params: of the dense model; its logits are computed again for every batch.

    Returns:
      ``loss(params, batch)``: float32, the mean over all axes but the last.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> forward, x = lambda p, x: x @ p["w"], jnp.ones((1, 1))
      >>> loss = dst.oneshot.divergence(forward, {"w": jnp.array([[0.0, 0.0]])})
      >>> round(float(loss({"w": jnp.array([[0.0, jnp.log(3.0)]])}, x)), 4)  # log(2 / sqrt(3))
      0.1438

    Checked against: the example, by hand; NumPy in ``tests/oneshot/test_loss.py``.
    """

    def loss(other: Params, batch: Batch) -> Array:
        dense, sparse = (
            jax.nn.log_softmax(jnp.asarray(forward(p, batch)).astype(jnp.float32))
            for p in (params, other)
        )
        return jnp.mean(jnp.sum(jnp.exp(dense) * (dense - sparse), axis=-1))

    return loss


def as_numbers(gradients: Gradients) -> list[np.ndarray]:
    """The arrays, to be hashed."""
    return [np.asarray(gradients.absolute), np.asarray(gradients.norms)]
