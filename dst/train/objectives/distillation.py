"""Distillation: the next token, and the states and choices of a teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array, Float, PyTree
from dst.train.objectives.next_token import NextToken


@named("distillation", labels="class", files=("teacher",))
@dataclass(frozen=True)
class Distillation:
    """``cross_entropy * CE + kl * KL(teacher || student) + hidden * SquareHead``.

    The KL divergence is that of the softmax of all logits divided by ``temperature``, times its
    square, in nats. SquareHead is the sum over blocks of ``|student - teacher|^2 / (|teacher|^2 +
    eps)``, where both squares are means over batch, places and channels of the residual stream
    after the block.

    Attributes:
      teacher: path of a pretrained decoder with the blocks, width and tokens of the network.
      cross_entropy: weight of the next token, >= 0.
      kl: weight of the teacher's choices, >= 0.
      hidden: weight of the teacher's states, >= 0.
      temperature: > 0.
      eps: >= 0; one bit of bfloat16 as the authors have it.
      bytes_per_token: as of next-token.

    References:
      Kurtic et al. 2023, "Sparse Fine-tuning for Inference Acceleration of Large Language Models"
      (arXiv 2310.06927): SquareHead, with the weights 1, 0 or 1, 1. Hinton et al. 2015,
      "Distilling the Knowledge in a Neural Network" (1503.02531).

    Checked against: NumPy sums over the states and logits of two decoders, and the worked table in
    tests/train/test_distillation.py. The authors' code (IST-DASLab/SparseFinetuning at 447f673f)
    has the same terms.
    """

    softmax: ClassVar[bool] = False  # it reads states, and no outputs of a call

    teacher: str
    cross_entropy: float = 1.0
    kl: float = 0.0
    hidden: float = 1.0
    temperature: float = 1.0
    eps: float = 2.0**-7
    bytes_per_token: float | None = None

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "kl", "hidden", "eps"):
            checks.at_least_zero(name, getattr(self, name))
        checks.above_zero("temperature", self.temperature)
        if not (self.cross_entropy or self.kl or self.hidden):
            raise ValueError("one of cross_entropy, kl and hidden must be above 0, got 0 for all.")

    def of(self, units: tuple[float, ...] | None) -> Distillation:
        """The objective for a data set whose tokens have so many bytes."""
        return replace(self, bytes_per_token=self._next_token.of(units).bytes_per_token)

    @property
    def _next_token(self) -> NextToken:
        return NextToken(self.bytes_per_token)

    @property
    def arrays(self) -> PyTree:
        """The weights of the teacher; None where it has no part."""
        return _loaded(self.teacher)[1] if self.kl or self.hidden else None

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array, arrays: PyTree = None
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over all places, and its parts that have a weight."""
        from flax import nnx

        inputs, labels = batch
        if not hasattr(model, "hidden_states"):
            raise ValueError(
                "objective distillation needs a network with hidden_states(tokens) and "
                f"logits(states), as dst.models.Decoder has them, got {type(model).__name__}."
            )
        states = model.hidden_states(inputs)
        logits = model.logits(states[-1])
        _, scores = self._next_token.loss(lambda _: logits, (inputs, labels), key)
        scores["cross_entropy"] = scores["loss"]
        total = self.cross_entropy * scores["cross_entropy"]
        if arrays is None:
            return total, {**scores, "loss": total}
        teacher: Any = nnx.merge(_loaded(self.teacher)[0], arrays)
        wanted = jax.lax.stop_gradient(teacher.hidden_states(inputs))
        choices = jax.lax.stop_gradient(teacher.logits(wanted[-1]))
        for what, ours, theirs in (("states", states, wanted), ("logits", logits, choices)):
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"objective.teacher: its {what} are {list(theirs.shape)}, those of the "
                    f"network {list(ours.shape)}. It must have the blocks, width and tokens of the "
                    "network."
                )
        if self.hidden:
            scores["square_head"] = square_head(states, wanted, self.eps)
            total += self.hidden * scores["square_head"]
        if self.kl:
            scores["kl"] = divergence(logits, choices, self.temperature)
            total += self.kl * scores["kl"]
        return total, {**scores, "loss": total}


@lru_cache(maxsize=1)
def _loaded(path: str) -> tuple[Any, Any]:
    """The graph and the arrays of a teacher."""
    from flax import nnx

    from dst.models import load

    try:
        graph, state = nnx.split(load(path, dtype="float32"))
        return graph, nnx.to_pure_dict(state)
    except FileNotFoundError as error:
        raise ValueError(f"objective.teacher: {error}") from error


def square_head(
    student: Float[Array, "layers batch length width"],
    teacher: Float[Array, "layers batch length width"],
    eps: float,
) -> Float[Array, ""]:
    """``sum over layers of mean (s - t)^2 / (mean t^2 + eps)``.

    Example:
      >>> student = jnp.array([[[[1.0, 2.0]], [[0.0, 1.0]]]])
      >>> teacher = jnp.array([[[[1.5, 2.0]], [[0.0, 2.0]]]])
      >>> round(float(square_head(student, teacher, 0.0)), 6)
      0.121951
    """
    s, t = student.astype(jnp.float32), teacher.astype(jnp.float32)
    axes = (1, 2, 3)
    return jnp.sum(jnp.mean((s - t) ** 2, axes) / (jnp.mean(t**2, axes) + eps))


def divergence(
    student: Float[Array, "batch length classes"],
    teacher: Float[Array, "batch length classes"],
    temperature: float,
) -> Float[Array, ""]:
    """``T^2 * mean over places of KL(softmax(teacher / T) || softmax(student / T))``, in nats."""
    s, t = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (student, teacher))
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(t) * (t - s), axis=-1))
