"""A classifier in batches: its answers, and whether they are right under an attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.text import shown
from dst.core.typing import Array, ArrayLike
from dst.train.attacks import FGSM, PGD, as_function
from dst.train.objectives.adversarial import nats

Attack = FGSM | PGD
# (inputs, labels, key, radii) -> whether an answer is wrong, and the size of the perturbation
Attacked = Callable[[ArrayLike, ArrayLike, Array, ArrayLike], tuple[Array, Array]]


def checked(inputs: Any, labels: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples as NumPy's arrays.

    Raises:
      ValueError: no example, or not a label for each.
    """
    checks.integer("batch_size", batch_size, at_least=1)
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    good = labels.ndim == 1 and len(inputs) == len(labels) > 0
    if not good or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "expected inputs [n, ...] and a class for each, integers [n] with n >= 1, got "
            f"{list(inputs.shape)} and {shown(labels.dtype.name)} {list(labels.shape)}."
        )
    return inputs, labels


def batches(size: int, *arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows of arrays, so many at a time."""
    for i in range(0, len(arrays[0]), size):
        yield tuple(x[i : i + size] for x in arrays)


def answering(model: Any, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """From inputs to float32 logits, compiled once."""
    compiled = jax.jit(as_function(model))

    def answers(inputs: np.ndarray) -> np.ndarray:
        parts = [np.asarray(compiled(x), np.float32) for (x,) in batches(size, inputs)]
        return np.concatenate(parts)

    return answers


def attacking(model: Any, attack: Attack) -> Attacked:
    """One batch under an attack, compiled once for all radii."""
    tested = as_function(model)

    @jax.jit
    def attacked(inputs: Array, labels: Array, key: Array, radii: Array) -> tuple[Array, Array]:
        delta = attack(lambda x: nats(tested(x), labels), inputs, key, radii)
        said = jnp.argmax(tested(attack.ball.moved(inputs, delta)), -1)
        return said != labels, attack.ball.sizes(delta)

    return attacked
