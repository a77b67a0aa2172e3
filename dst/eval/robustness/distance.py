"""The adversarial distance: how small a change makes a classifier wrong."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dst.core import checks
from dst.core.typing import ArrayLike
from dst.eval.robustness.classifier import Attack, answering, attacking, batches, checked


def adversarial_distance(
    model: Any,
    inputs: ArrayLike,
    labels: ArrayLike,
    attack: Attack,
    *,
    farthest: float,
    rounds: int = 12,
    seed: int = 0,
    batch_size: int = 256,
) -> np.ndarray:
    """The size of the smallest adversarial perturbation of every input, by bisection on epsilon.

    It is the size of a perturbation that was found, so the true distance is at most that. An attack
    that fails at a radius may succeed at a smaller one; bisection does not look there.

    Args:
      model: from inputs to logits ``[n, classes]``; a Flax module is called as it is tested.
      inputs: real numbers ``[n, ...]``, as the network reads them.
      labels: int ``[n]``.
      attack: :class:`FGSM` or :class:`PGD`; the radius of its ball is not used. A step size
        that is None follows the radius.
      farthest: the largest radius, > 0, in raw units.
      rounds: of bisection, >= 1; a round halves the interval.
      seed: of the starts of the attack.
      batch_size: inputs at a time.

    Returns:
      float32 ``[n]``: 0 where the answer is wrong anyway; infinite where no attack succeeded.

    Raises:
      ValueError: a value outside of its range, or inputs that cannot be attacked.

    Example:
      >>> import jax.numpy as jnp
      >>> from dst.train.attacks import FGSM, Ball
      >>> def model(x):
      ...     return jnp.stack([x[:, 0] - x[:, 1], jnp.zeros(len(x))], 1)  # 0 where x0 > x1
      >>> x = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
      >>> found = adversarial_distance(model, x, np.array([0, 0]), FGSM(Ball(0)), farthest=4.0)
      >>> found.round(2).tolist()
      [0.5, 0.0]

    Checked against: the distance of a linear classifier in closed form, in both norms:
    tests/eval/robustness/test_robustness.py.
    """
    checks.above_zero("farthest", farthest)
    checks.integer("rounds", rounds, at_least=1)
    given, classes = checked(inputs, labels, batch_size)
    attack.ball.check(given)
    answers, attacked = answering(model, batch_size), attacking(model, attack)
    key, parts = jax.random.key(seed), []
    for i, (x, y) in enumerate(batches(batch_size, given, classes)):
        keys = jax.random.split(jax.random.fold_in(key, i), rounds + 1)
        low = np.zeros(len(y), np.float32)
        high = np.full(len(y), farthest, np.float32)
        wrong, sizes = map(np.asarray, attacked(x, y, keys[0], high))
        found = np.where(wrong, np.minimum(sizes, high), np.float32(np.inf))
        high = np.minimum(found, high)
        for each in keys[1:]:
            middle = (low + high) / 2
            wrong, sizes = map(np.asarray, attacked(x, y, each, middle))
            shorter = np.where(wrong, np.minimum(sizes, middle), high)
            found = np.where(wrong, np.minimum(found, shorter), found)
            low, high = np.where(wrong, low, middle), np.minimum(high, shorter)
            low = np.minimum(low, high)
        parts.append(np.where(answers(x).argmax(-1) != y, np.float32(0), found))
    return np.concatenate(parts)
