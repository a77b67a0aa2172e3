"""The wrapped optimizer: learning rate over time, clipping, weight decay, and the update rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from dst.core import checks
from dst.core.tree import flatten, lookup
from dst.core.typing import Array, PyTree
from dst.rules.schedule import Duration, Schedule, constant, cosine, duration, linear, resolve

# The settings that each optimizer has of its own; None leaves Optax's default.
_OWN: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("momentum", "nesterov"),
    "adam": ("b1", "b2", "eps"),
    "adamw": ("b1", "b2", "eps"),
    "lion": ("b1", "b2"),
    "adafactor": (),
    "muon": (),
}


@dataclass(frozen=True)
class Optimizer:
    """The inner optimizer of a run, without the sparse training method.

    Attributes:
      name: the update rule.
      learning_rate: its peak, > 0.
      warmup: steps or percent in which the learning rate rises linearly to its peak.
      decay: how the learning rate falls to zero, from the end of the warm-up to the end of
        training; "constant" does not fall.
      weight_decay: of weights with two or more dimensions, >= 0: decoupled for adamw, lion,
        adafactor and muon, added to the gradient for the others.
      clip: largest global norm of the (masked) gradients; null does not clip.
      accumulate: micro-batches per batch, >= 1; there is one optimizer update for all of them.
      ema: decay of an exponential moving average of the parameters, for evaluation, in [0, 1);
        null: no average.
      momentum: of the optimizer "momentum", in [0, 1); null: 0.9.
      nesterov: whether momentum looks ahead.
      b1: decay of the first moment (adam, adamw, lion).
      b2: decay of the second moment (adam, adamw, lion).
      eps: added to the denominator (adam, adamw).
    """

    name: Literal["sgd", "momentum", "adam", "adamw", "lion", "adafactor", "muon"]
    learning_rate: float
    warmup: Duration = 0
    decay: Literal["constant", "cosine", "linear"] = "constant"
    weight_decay: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    ema: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        checks.integer("accumulate", self.accumulate, at_least=1)
        duration("warmup", self.warmup)
        for name in ("learning_rate", "clip", "eps"):
            _at_least_zero(name, getattr(self, name), above=True)
        _at_least_zero("weight_decay", self.weight_decay)
        for name in ("ema", "momentum", "b1", "b2"):
            if getattr(self, name) is not None:
                checks.fraction(name, getattr(self, name), below_one=True)
        for name in ("momentum", "nesterov", "b1", "b2", "eps"):
            if getattr(self, name) is not None and name not in _OWN[self.name]:
                users = [o for o, own in _OWN.items() if name in own]
                raise ValueError(
                    f"{name} must be null for {self.name}, got {getattr(self, name)!r}. "
                    f"It belongs to {' and '.join(users)}."
                )


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
    config: Optimizer, steps: int, stacked: Mapping[str, int] | None = None, first: int = 0
) -> optax.GradientTransformation:
    """The Optax optimizer that :func:`dst.sparsify` wraps.

    Clipping is part of it, so that it sees the gradients of active weights only.

    Args:
      config: its settings.
      steps: length of training in optimizer updates.
      stacked: number of leading axes that enumerate layers, by leaf pattern. They do not count as
        dimensions: a stacked scale is no matrix.
      first: as in :func:`learning_rate`.
    """

    def matrices(params: PyTree) -> PyTree:
        """bool for each leaf: biases and scales do not decay."""
        paths, leaves, treedef = flatten(params)
        ranks = (x.ndim - (lookup(stacked, p) or 0) for p, x in zip(paths, leaves, strict=True))
        return jax.tree.unflatten(treedef, [rank > 1 for rank in ranks])

    rate = learning_rate(config, steps, first)
    own = {k: getattr(config, k) for k in _OWN[config.name] if getattr(config, k) is not None}
    decay = {"weight_decay": config.weight_decay, "mask": matrices}
    parts = [] if config.clip is None else [optax.clip_by_global_norm(config.clip)]
    if config.name in ("sgd", "momentum", "adam") and config.weight_decay:
        parts.append(optax.add_decayed_weights(**decay))
    match config.name:
        case "sgd":
            parts.append(optax.sgd(rate))
        case "momentum":
            parts.append(optax.sgd(rate, **{"momentum": 0.9, **own}))
        case "adam":
            parts.append(optax.adam(rate, **own))
        case "adamw":
            parts.append(optax.adamw(rate, **decay, **own))
        case "lion":
            parts.append(optax.lion(rate, **decay, **own))
        case "adafactor":
            parts.append(
                optax.adafactor(
                    rate,
                    weight_decay_rate=config.weight_decay or None,
                    weight_decay_mask=matrices,
                )
            )
        case "muon":
            parts.append(
                optax.contrib.muon(
                    rate, weight_decay=config.weight_decay, weight_decay_mask=matrices
                )
            )
    return optax.chain(*parts)


def _at_least_zero(name: str, value: float | None, above: bool = False) -> None:
    if value is None or value > 0 or (value == 0 and not above):
        return
    raise ValueError(f"{name} must be a number {'>' if above else '>='} 0, got {value!r}.")
