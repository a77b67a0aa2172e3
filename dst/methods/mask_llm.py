"""MaskLLM (Fang et al. 2024): learns which N:M mask frozen weights get, by Gumbel softmax."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.draws import uniform
from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.fields import AboveZero, NotNegative
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.schedule import Duration, Schedule, resolve
from dst.rules.structure import NM

_HINT = "The paper learns masks in 2000 steps, to the end of which weights are soft."
_MOST = 100  # candidates: each is a logit per group


@named("mask-llm")
@method
class MaskLLM:
    """Trains logits of the candidate masks of every group of ``m`` inputs; weights stay fixed.

    A group of 2:4 has six candidates. While masks are learned, the weights in use are ``w M``
    with the soft mask ``M = softmax((kappa logits + Gumbel noise) / tau) candidates``, of sum ``n``
    in every group. ``tau`` falls and ``kappa`` rises along lines until ``stop``. From there on the
    candidate of the largest logit is the mask. The gradient of ``-decay(t) ||w M||^2`` is added to
    that of the loss: masks of large weights are preferred, less and less until ``stop``.

    Logits begin normal with deviation 0.01. A prior mask raises those of candidates that share
    connections with it: by ``strength`` times the deviation for each one above ``n / 2``.

    Args:
      n, m: the pattern.
      prior: bool masks by leaf path, such as those of :func:`dst.prune`; leaves without one, and
        None: the ``n`` largest weights of every group.
      strength: of the prior; 0: none.
      first_temperature, last_temperature: ``tau``; it falls.
      first_scale, last_scale: ``kappa``.
      decay: of the term of kept weights, at the start.
      stop: when masks become hard; steps or percent.

    Raises:
      ValueError: a kernel with several axes of inputs or outputs, a prior of another shape.

    Example:
      >>> MaskLLM(stop=2000).rule().softness(1000)
      Array(2.025, dtype=float32, weak_type=True)

    References:
      Fang et al. 2024, "MaskLLM: Learnable Semi-Structured Sparsity for Large Language Models"
      (arXiv 2409.17481).

    Checked against: NVlabs/MaskLLM at 50e50de8, learnable_sparsity/differentiable_mask.py, by
    numbers worked out by hand, and its gradient against autodiff through the soft mask:
    tests/methods/test_mask_llm.py.
    Differs from the code: no forward hook; weights that a run evaluates before ``stop`` are soft;
    the first forward pass is dense. The optimizer's weight decay acts on logits. A mask is along
    the inputs of one layer of a stacked leaf, and so is the deviation of its logits.
    """

    n: int = 2
    m: int = 4
    prior: Mapping[str, Any] | None = None
    strength: NotNegative = 3.0
    first_temperature: AboveZero = 4.0
    last_temperature: AboveZero = 0.05
    first_scale: AboveZero = 1e2
    last_scale: AboveZero = 5e2
    decay: NotNegative = 1e-5
    stop: Duration = "100%"

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        structure = NM(self.n, self.m)
        every = candidates(self.n, self.m)
        if self.last_temperature >= self.first_temperature:
            raise ValueError(
                "the temperature must fall: expected first_temperature above last_temperature, got "
                f"{self.first_temperature:g} and {self.last_temperature:g}."
            )

        def mask(latent: Array, leaf: LatentLeaf) -> Array:
            assert leaf.key is not None  # as the rule draws
            x = self._progress(leaf.softness)
            kappa = self.first_scale + (self.last_scale - self.first_scale) * x
            noise = gumbel(jax.random.fold_in(leaf.key, 2), latent)
            tau = jnp.where(leaf.softness > 0, leaf.softness, 1.0)
            return soft_mask(latent, noise, kappa, tau, every)

        def weight(leaf: LatentLeaf) -> Array:
            soft = leaf.fixed * mask(leaf.latent, leaf)
            return jnp.where(leaf.softness > 0, soft, leaf.fixed)

        def gradient(leaf: LatentLeaf) -> Array:
            soft, pull = jax.vjp(lambda x: mask(x, leaf), leaf.latent)
            decay = self.decay * (1 - self._progress(leaf.softness))
            grad = leaf.grad - 2 * decay * leaf.fixed * soft
            return jnp.where(leaf.softness > 0, pull(grad * leaf.fixed)[0], 0.0)

        return Latent(
            float(structure.sparsity),
            structure,
            start=self._start(every),
            fix=lambda weight, leaf: weight,
            score=lambda latent: hard_mask(latent, every),
            weight=weight,
            gradient=gradient,
            train_dense=False,
            softness=self._temperature(resolve("stop", self.stop, steps, _HINT)),
            draws=True,
        )

    def _temperature(self, stop: int) -> Schedule:
        """``tau``; 0 from ``stop`` on."""

        def softness(count: Any) -> Any:
            x = jnp.minimum(jnp.asarray(count) / max(stop, 1), 1.0)
            tau = self.first_temperature + (self.last_temperature - self.first_temperature) * x
            return jnp.where(jnp.asarray(count) >= stop, 0.0, tau)

        return softness

    def _progress(self, tau: Array) -> Array:
        """The part of the time to ``stop`` that has passed, from the temperature."""
        return (self.first_temperature - tau) / (self.first_temperature - self.last_temperature)

    def _start(self, every: np.ndarray) -> Callable[[Array, Leaf, Array], Array]:
        """Logits ``[..., inputs / m * candidates, outputs]``."""

        def start(weight: Array, leaf: Leaf, key: Array) -> Array:
            if "".join(leaf.letters).lstrip("k") != "io":
                raise ValueError(
                    f"{leaf.path}: MaskLLM expects one axis of inputs before one of outputs, found "
                    f"axes {' '.join(leaf.letters)}. Leave it dense: select=['!{leaf.path}']."
                )
            groups = weight.shape[-2] // self.m
            shape = (*weight.shape[:-2], groups * len(every), weight.shape[-1])
            u = uniform(jax.random.fold_in(key, 1), jnp.zeros(shape))
            logits = 0.01 * jnp.sqrt(2.0) * lax.erf_inv(2 * jnp.maximum(u, 2.0**-25) - 1)
            mask = (self.prior or {}).get(leaf.path)
            if mask is None:
                mask = hard_mask(overlaps(jnp.abs(weight), every), every)
            if jnp.shape(mask) != weight.shape:
                raise ValueError(
                    f"{leaf.path}: expected a prior mask of shape {weight.shape}, got "
                    f"{jnp.shape(mask)}."
                )
            own = tuple(range(leaf.stacked, len(shape)))
            return with_prior(logits, jnp.asarray(mask), every, self.strength, own)

        return start


def candidates(n: int, m: int) -> np.ndarray:
    """All masks of ``n`` of ``m``, float32 ``[candidates, m]``: 1100, 1010, 1001, 0110, ..."""
    chosen = list(itertools.combinations(range(m), n))
    if len(chosen) > _MOST:
        raise ValueError(
            f"MaskLLM has a logit per candidate, expected at most {_MOST}, found {len(chosen)} for "
            f"{n}:{m}. Choose a smaller m."
        )
    return np.array([[float(i in c) for i in range(m)] for c in chosen], np.float32)


def _grouped(x: Array, size: int) -> Array:
    """``[..., groups, size, outputs]`` from ``[..., groups * size, outputs]``."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // size, size, x.shape[-1])


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def _product(axes: str, every: np.ndarray, x: Array) -> Array:
    return jnp.einsum(axes, jnp.asarray(every), x, precision=lax.Precision.HIGHEST)


def overlaps(values: Array, every: np.ndarray) -> Array:
    """For each candidate the sum of the values that it keeps, in the shape of logits."""
    return _flat(_product("cm,...mo->...co", every, _grouped(values, every.shape[1])))


def with_prior(
    logits: Array, mask: Array, every: np.ndarray, strength: float, axes: tuple[int, ...]
) -> Array:
    """Logits raised by ``strength`` deviations for each connection in common above the half.

    Args:
      logits: ``[..., groups * candidates, outputs]``.
      mask: bool, of the shape of the weights.
      every: the candidates.
      strength: of the prior.
      axes: over which the deviation is taken.
    """
    common = overlaps(mask.astype(jnp.float32), every) - float(every[0].sum()) / 2
    return logits + strength * jnp.std(logits, axis=axes, ddof=1, keepdims=True) * common


def soft_mask(logits: Array, noise: Array, kappa: Any, tau: Any, every: np.ndarray) -> Array:
    """``softmax((kappa logits + noise) / tau) candidates``, of the shape of the weights."""
    y = jax.nn.softmax(_grouped((kappa * logits + noise) / tau, len(every)), axis=-2)
    return _flat(_product("cm,...co->...mo", every, y))


def hard_mask(logits: Array, every: np.ndarray) -> Array:
    """The candidate of the largest logit, float32; NaN where a logit is."""
    grouped = _grouped(logits, len(every))
    best = jax.nn.one_hot(jnp.argmax(grouped, axis=-2), len(every), axis=-2)
    broken = jnp.isnan(grouped).any(axis=-2, keepdims=True)
    return _flat(jnp.where(broken, jnp.nan, _product("cm,...co->...mo", every, best)))


def gumbel(key: Array, like: Array) -> Array:
    """Standard Gumbel noise of the shape of an array, by position."""
    return -jnp.log(-jnp.log(jnp.maximum(uniform(key, like), 2.0**-25)))
