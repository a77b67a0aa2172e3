"""Adversarial training: the loss of inputs that an attack has chosen; and TRADES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array, Float, Int
from dst.train.attacks import FGSM, PGD, Ball, as_function
from dst.train.attacks.pgd import Start
from dst.train.objectives.classification import cross_entropy
from dst.train.objectives.trades import divergences

_LOOKED_AT = 256  # test examples whose range is compared with `clip`


@named("adversarial", labels="class")
@dataclass(frozen=True)
class Adversarial:
    """``mean max over |d| <= epsilon of cross_entropy(f(x + d), y)``, the maximum by an attack.

    With ``variant: trades`` it is ``mean cross_entropy(f(x), y) + beta mean max KL(f(x) || f(x +
    d))``. The attack sees the network as it is tested, as the authors of TRADES do it: BatchNorm's
    running statistics, nothing random. The update then normalises by the batch of attacked inputs.
    Metrics: `accuracy` of clean inputs, `adversarial_accuracy` of attacked ones, for TRADES its two
    terms `cross_entropy` and `kl`. Starts are drawn from the key of the update, so a resumed run
    draws the same.

    Attributes:
      epsilon: radius of the ball, >= 0, in the units of raw inputs: where `mean` and `std` are left
        out, those of inputs as the network reads them. Most data sets here have deviation 1.
      norm: of perturbations: linf, the largest change of an entry; l2, the Euclidean length.
      attack: pgd, or fgsm, which is one step from the input to the edge of the ball.
      steps: of pgd, >= 1.
      step_size: of pgd, > 0, in raw units; null: `2.5 epsilon / steps`.
      start: of pgd: uniform in the ball; normal, with deviation 0.001 in raw units; zero. null:
        normal for TRADES, else uniform.
      variant: madry: the loss of attacked inputs. trades: that of clean inputs, and the distance.
      beta: weight of the distance in TRADES, >= 0.
      clip: smallest and largest raw input; null: attacked inputs may have any value.
      mean, std: by which the data set normalised, one number or one per channel.

    References:
      Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks" (arXiv
      1706.06083). Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and
      Accuracy" (arXiv 1901.08573). Goodfellow et al. 2015 (arXiv 1412.6572).

    Checked against: losses of linear classifiers, whose worst inputs have a closed form; NumPy
    sums; finite differences; tests/train/test_adversarial.py. yaodongyu/TRADES at 0195ed43,
    trades.py has the same two terms.
    Differs from the code: TRADES reads the clean inputs once where it reads them twice, which
    BatchNorm's running statistics notice. Its attack in the L2 norm is PGD where the authors take
    an optimizer.
    """

    softmax: ClassVar[bool] = False  # attacks call the network, not its logits over a temperature

    epsilon: float
    norm: Literal["linf", "l2"] = "linf"
    attack: Literal["pgd", "fgsm"] = "pgd"
    steps: int = 10
    step_size: float | None = None
    start: Literal["uniform", "normal", "zero"] | None = None
    variant: Literal["madry", "trades"] = "madry"
    beta: float = 6.0
    clip: tuple[float, ...] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name, words in (("attack", ("pgd", "fgsm")), ("variant", ("madry", "trades"))):
            checks.one_of(name, getattr(self, name), words)
        checks.at_least_zero("beta", self.beta)
        _ = self.attacker  # checks the rest
        if self.variant == "trades" and (self.attack == "fgsm" or self.start == "zero"):
            raise ValueError(
                "variant trades needs an attack that starts beside the input, where its loss is "
                "flat: leave attack and start out."
            )

    @property
    def ball(self) -> Ball:
        """Where perturbations lie."""
        return Ball(self.epsilon, self.norm, self.clip, self.mean, self.std)

    @property
    def attacker(self) -> FGSM | PGD:
        """The attack."""
        if self.attack == "fgsm":
            return FGSM(self.ball)
        usual: Start = "normal" if self.variant == "trades" else "uniform"
        return PGD(self.ball, self.steps, self.step_size, self.start or usual)

    def check(self, dataset: Any) -> None:
        """Refuses a data set whose inputs cannot be attacked so.

        Args:
          dataset: the :class:`dst.train.data.Dataset`.

        Raises:
          ValueError: inputs that are no real numbers, are normalised in another way, or lie
            outside of ``clip``.
        """
        some = np.arange(min(len(dataset.test), _LOOKED_AT))
        try:
            self.ball.check(dataset.test.take(some)[0])
        except ValueError as error:
            raise ValueError(f"objective adversarial: {error}") from error

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over all labels, and its parts."""
        inputs, labels = batch
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            self.ball.check(inputs)
        tested = as_function(model)
        answers = lax.stop_gradient(tested(inputs))

        def towards(x: Array) -> Array:
            if self.variant == "trades":
                return divergences(answers, tested(x))
            return nats(tested(x), labels)

        delta = lax.stop_gradient(self.attacker(towards, inputs, key))
        attacked = self.ball.moved(inputs, delta)
        if self.variant == "madry":
            scores = cross_entropy(model(attacked), labels)
            known = {"accuracy": cross_entropy(answers, labels)["accuracy"]}
            found = {"adversarial_accuracy": scores["accuracy"], **known}
            return scores["loss"], {"loss": scores["loss"], **found}
        clean, moved = model(inputs), model(attacked)
        scores, kl = cross_entropy(clean, labels), jnp.mean(divergences(clean, moved))
        total = scores["loss"] + self.beta * kl
        return total, {
            "loss": total,
            "accuracy": scores["accuracy"],
            "adversarial_accuracy": cross_entropy(moved, labels)["accuracy"],
            "cross_entropy": scores["loss"],
            "kl": kl,
        }


def nats(
    logits: Float[Array, "n *places classes"], labels: Int[Array, "*labelled"]
) -> Float[Array, " n"]:
    """The cross-entropy of every input, a mean over its places."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return jnp.mean(each, axis=tuple(range(1, each.ndim)))
