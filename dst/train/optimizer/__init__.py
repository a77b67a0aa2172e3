"""The wrapped optimizer: learning rate, clipping, weight decay; one update rule per file.

An update rule of your own is a function that gives an Optax transformation. It takes what it needs
of ``learning_rate`` (a function of the updates done), ``weight_decay`` and ``mask`` (which weights
decay); its other arguments are keys of the config::

    optimizer: {import: "optax:lamb", learning_rate: 1e-3, warmup: 5%, b1: 0.9}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from dst.core.patterns import chosen, lookup, require_matches
from dst.core.registry import Registry
from dst.core.tree import flatten
from dst.core.typing import Array, Params, PyTree
from dst.rules.fields import AboveZero, BelowOne, LearningRate, NotNegative, Positive
from dst.rules.schedule import Duration, Schedule, constant, cosine, linear, resolve
from dst.train.config.schema import Section

REGISTRY = Registry("optimizer", "dst.train.optimizer")
OFFERS = ("learning_rate", "weight_decay", "mask")


@dataclass(frozen=True)
class Optimizer:
    """What every inner optimizer of a run has, whatever its update rule.

    Attributes:
      learning_rate: its peak, > 0, at most 1e6.
      warmup: steps or percent in which the learning rate rises linearly to its peak.
      decay: how the learning rate falls to zero, from the end of the warm-up to the end of
        training; "constant" does not fall.
      weight_decay: of weights with two or more dimensions, >= 0. Optimizers that have a decay of
        their own decouple it; for the others it is added to the gradient.
      clip: largest global norm of the (masked) gradients; null does not clip.
      accumulate: micro-batches per batch, >= 1; there is one optimizer update for all of them.
      ema: decay of an exponential moving average of the parameters, for evaluation, in [0, 1);
        null: no average.
      trainable: pattern or patterns of the weights that are trained (`!pattern` takes out again);
        others keep their values and have no moments. null: all.
    """

    learning_rate: LearningRate
    warmup: Duration = 0
    decay: Literal["constant", "cosine", "linear"] = "constant"
    weight_decay: NotNegative = 0.0
    clip: AboveZero | None = None
    accumulate: Positive = 1
    ema: BelowOne | None = None
    trainable: str | tuple[str, ...] | None = None


def learning_rate(config: Optimizer, steps: int, first: int = 0) -> Schedule:
    """The learning rate as an Optax schedule: a function of the updates done.

    Given a Python integer it computes on the host, otherwise with JAX.

    Args:
      config: peak, warm-up and decay.
      steps: length of training in optimizer updates.
      first: updates done before the count starts at 0.
    """
    warm = resolve("warmup", config.warmup, steps, "")
    rest = max(steps - warm, 1)
    decay = {"constant": constant(1.0), "cosine": cosine(1.0, rest), "linear": linear(1.0, rest)}

    def rate(count: int | Array) -> float | Array:
        host, count = isinstance(count, int), count + first
        rise = (min if host else jnp.minimum)((count + 1) / max(warm, 1), 1.0)
        since = (max if host else jnp.maximum)(count - warm, 0)
        return config.learning_rate * rise * decay[config.decay](since)

    return rate


def make(
    section: Section,
    steps: int,
    stacked: Mapping[str, int] | None = None,
    first: int = 0,
    params: Params | None = None,
) -> optax.GradientTransformation:
    """The Optax optimizer that :func:`dst.sparsify` wraps.

    Clipping is part of it, so that it sees the gradients of active weights only.

    Args:
      section: of the config: an update rule and its settings.
      steps: length of training in optimizer updates.
      stacked: number of leading axes that enumerate layers, by leaf pattern. They do not count as
        dimensions: a stacked scale is no matrix.
      first: as in :func:`learning_rate`.
      params: arrays or shapes, whose ranks say what is a matrix: in the packed form matrices stand
        in a row. None: those that the optimizer is given.

    Raises:
      ValueError: an import that gives something else than an Optax transformation.
    """

    known = {} if params is None else dict(zip(*flatten(params)[:2], strict=True))

    def matrices(params: PyTree) -> PyTree:
        """bool for each leaf: biases and scales do not decay."""
        paths, leaves, treedef = flatten(params)
        of_path = [known.get(p, x) for p, x in zip(paths, leaves, strict=True)]
        ranks = (x.ndim - (lookup(stacked, p) or 0) for p, x in zip(paths, of_path, strict=True))
        return jax.tree.unflatten(treedef, [rank > 1 for rank in ranks])

    config = section.value
    given = {
        "learning_rate": learning_rate(config, steps, first),
        "weight_decay": config.weight_decay,
        "mask": matrices,
    }
    update = section.make(**given)
    if not isinstance(update, optax.GradientTransformation):
        raise ValueError(
            f"optimizer.import: {section.name} must give an optax.GradientTransformation, got "
            f"{type(update).__name__}."
        )
    parts = [] if config.clip is None else [optax.clip_by_global_norm(config.clip)]
    if config.weight_decay and not section.takes("weight_decay"):
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=matrices))
    whole = optax.chain(*parts, update)
    return whole if config.trainable is None else _only(whole, config.trainable)


def _only(
    inner: optax.GradientTransformation, patterns: str | Sequence[str]
) -> optax.GradientTransformation:
    """An optimizer that sees the weights of some patterns, and leaves all others as they are."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)

    def labels(params: PyTree) -> PyTree:
        paths, _, treedef = flatten(params)
        require_matches("optimizer.trainable", [p.removeprefix("!") for p in patterns], paths)
        return treedef.unflatten(["trained" if chosen(patterns, p) else "kept" for p in paths])

    return optax.partition({"trained": inner, "kept": optax.set_to_zero()}, labels)
