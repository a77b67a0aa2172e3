"""All figures of robustness of one classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.typing import ArrayLike
from dst.eval.calibration import calibration_error
from dst.eval.robustness import corruptions
from dst.eval.robustness.classifier import Attack, answering, attacking, batches, checked
from dst.eval.robustness.distance import adversarial_distance
from dst.train.attacks import FGSM, PGD, Ball

_FARTHEST = 10  # radii


@dataclass(frozen=True)
class Robustness:
    """How robust a classifier is. Accuracies are fractions of the examples, in [0, 1].

    Attributes:
      examples: how many there were.
      accuracy: of clean inputs.
      fgsm: of inputs that are right, and stay right under FGSM.
      pgd: of inputs that are right, and stay right under every restart of PGD.
      corrupted: under noise and blur, by name and severity: ``"noise 0.08"``.
      calibration_error: expected, over 15 bins, of clean inputs.
      distances: float32 ``[n]``, of :func:`adversarial_distance`.
    """

    examples: int
    accuracy: float
    fgsm: float
    pgd: float
    corrupted: Mapping[str, float]
    calibration_error: float
    distances: np.ndarray

    @property
    def distance(self) -> float:
        """The median distance; infinite where half of the inputs withstand every attack."""
        return float(np.median(self.distances))


def judge(
    model: Any,
    inputs: ArrayLike,
    labels: ArrayLike,
    ball: Ball,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 5,
    noise: tuple[float, ...] = corruptions.NOISE,
    blur: tuple[float, ...] | None = None,
    farthest: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Attacks, corruptions, calibration and distances of a classifier.

    Args:
      model: from inputs to logits ``[n, classes]``, by JAX; a Flax module is called as it is
        tested.
      inputs: real numbers ``[n, ...]``, as the network reads them.
      labels: int ``[n]``.
      ball: of the perturbations.
      steps, step_size: of PGD.
      restarts: of PGD, each from another start, >= 1.
      noise: deviations of Gaussian noise in raw units.
      blur: deviations of Gaussian blur in pixels; None: five severities where inputs have spatial
        axes, else none.
      farthest: largest radius of the bisection; None: ten times that of the ball, without which
        (radius 0) every distance is infinite.
      seed: of starts and noise.
      batch_size: inputs at a time.
      progress: called with the number of figures that are done, and of all.

    Raises:
      ValueError: a value outside of its range, or inputs that cannot be attacked.

    Example:
      >>> def model(x):
      ...     return jnp.stack([x[:, 0] - x[:, 1], jnp.zeros(len(x))], 1)
      >>> x = np.array([[1.0, 0.0], [0.2, 0.0], [0.0, 1.0]], np.float32)
      >>> found = judge(model, x, np.array([0, 0, 1]), Ball(0.25), steps=5, noise=())
      >>> found.accuracy, round(found.pgd, 3), round(found.distance, 2)
      (1.0, 0.667, 0.5)

    Checked against: a linear classifier, all of whose figures have a closed form:
    tests/eval/robustness/test_robustness.py.
    """
    checks.integer("restarts", restarts, at_least=1)
    given, classes = checked(inputs, labels, batch_size)
    ball.check(given)
    if blur is None:
        blur = corruptions.BLUR if corruptions.has_space(given) else ()
    if farthest is None:
        farthest = _FARTHEST * ball.epsilon
    total, done = 4 + len(noise) + len(blur), count(1)

    def step() -> None:
        if progress is not None:
            progress(next(done), total)

    answers = answering(model, batch_size)
    logits = answers(given)
    right = logits.argmax(-1) == classes
    error = calibration_error(jax.nn.softmax(jnp.asarray(logits)), jnp.asarray(classes))
    step()
    corrupted = {}
    for words, severities, make in (
        ("noise", noise, lambda d: corruptions.noisy(given, d, ball, seed)),
        ("blur", blur, lambda d: corruptions.blurred(given, d, ball)),
    ):
        for severity in severities:
            good = answers(make(severity)).argmax(-1) == classes
            corrupted[f"{words} {severity:g}"] = float(good.mean())
            step()
    common: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    fgsm = right & right_under(model, given, classes, FGSM(ball), **common)
    step()
    attack = PGD(ball, steps, step_size)
    pgd = right & right_under(model, given, classes, attack, restarts=restarts, **common)
    step()
    distances = np.where(right, np.float32(np.inf), np.float32(0))
    if farthest:
        search = PGD(ball, steps)
        distances = adversarial_distance(model, given, classes, search, farthest=farthest, **common)
    step()
    return Robustness(
        examples=len(classes),
        accuracy=float(right.mean()),
        fgsm=float(fgsm.mean()),
        pgd=float(pgd.mean()),
        corrupted=corrupted,
        calibration_error=float(error),
        distances=distances,
    )


def right_under(
    model: Any,
    inputs: ArrayLike,
    labels: ArrayLike,
    attack: Attack,
    *,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 256,
) -> np.ndarray:
    """Whether each answer is right under an attack, every time; bool ``[n]``.

    Args:
      model, inputs, labels: as of :func:`judge`.
      attack: with its ball.
      restarts: how often, each time with other random numbers, >= 1.
      seed: of these.
      batch_size: inputs at a time.
    """
    checks.integer("restarts", restarts, at_least=1)
    given, classes = checked(inputs, labels, batch_size)
    attack.ball.check(given)
    attacked, key, parts = attacking(model, attack), jax.random.key(seed), []
    for i, (x, y) in enumerate(batches(batch_size, given, classes)):
        radii = np.full(len(y), attack.ball.epsilon, np.float32)
        stays = np.ones(len(y), bool)
        for each in jax.random.split(jax.random.fold_in(key, i), restarts):
            stays &= ~np.asarray(attacked(x, y, each, radii)[0])
        parts.append(stays)
    return np.concatenate(parts)
