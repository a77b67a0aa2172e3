"""Scores: one number per weight that ranks connections. A score takes one leaf."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dst.core.draws import uniform
from dst.core.typing import Array, Bool, Float, Int, PyTree


class Connections(NamedTuple):
    """The inputs of a score: one leaf.

    Attributes:
      weight: parameters, float32; exactly 0 where inactive.
      grad: the raw (dense) gradient with respect to the weights in use, float32.
      active: the mask before this topology step.
      explored: connections that were ever active.
      key: a PRNG key of this leaf and this step.
      stacked: leading axes that enumerate layers.
      accumulated: the value of the rule's accumulator for this leaf; None without one.
      updates: int32 scalar, updates before this step.
      kept: where something grows, the connections that stay; None while they are chosen.
    """

    weight: Float[Array, "*shape"]
    grad: Float[Array, "*shape"]
    active: Bool[Array, "*shape"]
    explored: Bool[Array, "*shape"]
    key: Array
    stacked: int = 0
    accumulated: PyTree = None
    updates: Int[Array, ""] | int = 0
    kept: Bool[Array, "*shape"] | None = None


Score = Callable[[Connections], Array]


def magnitude(leaf: Connections) -> Array:
    """``|w|``: the drop score of SET, RigL and GMP."""
    return jnp.abs(leaf.weight)


def gradient(leaf: Connections) -> Array:
    """``|dL/dw|``: the grow score of RigL, also of inactive connections."""
    return jnp.abs(leaf.grad)


def saliency(leaf: Connections) -> Array:
    """``|w dL/dw|``: the score of SNIP (arXiv 1810.02340).

    SNIP also divides by the sum over all weights, which changes no rank.
    """
    return jnp.abs(leaf.weight * leaf.grad)


def signed_saliency(leaf: Connections) -> Array:
    """``w h``, where ``h`` stands in the place of the gradient: GraSP (arXiv 2002.07376), whose
    ``h`` is the Hessian of the loss times its gradient."""
    return leaf.weight * leaf.grad


def importance(gradient_weight: float) -> Score:
    """``|w| + lambda |dL/dw|``: the drop score of MEST (arXiv 2110.14032)."""
    weight = jnp.float32(gradient_weight)
    return lambda leaf: jnp.abs(leaf.weight) + weight * jnp.abs(leaf.grad)


def lamp(leaf: Connections) -> Array:
    """LAMP: ``w^2`` over the sum of all squares in the layer that are not smaller.

    Scores of different layers can be compared: the largest weight of each layer has score 1. This
    is the only score that sorts, so it gathers a sharded layer. Among equal weights a later index
    has the larger score.

    Source: Lee et al. 2021 (arXiv 2010.07611).
    Checked against: jaeho-lee/layer-adaptive-sparsity at 94e53b1, tools/pruners.py;
    tests/methods/test_goldens.py::test_lamp_scores_are_shares_of_what_is_not_smaller.
    """
    shape = leaf.weight.shape
    squares = jnp.square(leaf.weight).reshape(*shape[: leaf.stacked], -1)
    order = jnp.argsort(squares, axis=-1, stable=True)
    ranked = jnp.take_along_axis(squares, order, axis=-1)
    not_smaller = jnp.flip(jnp.cumsum(jnp.flip(ranked, -1), axis=-1), -1)
    values = jnp.where(ranked > 0, ranked / jnp.where(ranked > 0, not_smaller, 1.0), 0.0)
    back = jnp.argsort(order, axis=-1, stable=True)
    return jnp.take_along_axis(values, back, axis=-1).reshape(shape)


#: Scores by which weights of different layers can be compared.
COMPARABLE: dict[str, Score] = {
    "magnitude": magnitude,
    "lamp": lamp,
    "saliency": saliency,
    "signed_saliency": signed_saliency,
}


def random(leaf: Connections) -> Array:
    """Uniform in [0, 1): the grow score of SET; exact sampling without replacement."""
    return uniform(leaf.key, leaf.weight)


def accumulated(leaf: Connections) -> Array:
    """``|m|``, where the rule accumulates raw gradients in ``m``: SNFS, RigL with
    ``accumulate``."""
    return jnp.abs(leaf.accumulated)


def first_saliency(leaf: Connections) -> Array:
    """``|w_0 dL/dw|``, where the rule accumulates the weights ``w_0`` of initialisation: FORCE
    (arXiv 2006.09081), also of connections that are pruned."""
    return jnp.abs(leaf.accumulated * leaf.grad)


def normalised_momentum(leaf: Connections) -> Array:
    """``|m| / (sqrt(v) + 1e-8)`` of accumulated moments: SNFS under Adam."""
    m, v = leaf.accumulated["m"], leaf.accumulated["v"]
    return jnp.abs(m) / (jnp.sqrt(v) + jnp.float32(1e-8))


def sampled_gradient(subset: float) -> Score:
    """``|dL/dw|`` in a random subset of connections, -1 outside of it: GSE (arXiv 2401.06898).

    The chance of a connection is that of being among ``floor(subset n)`` draws with replacement,
    where ``n`` are active. Layers of which at least half is active are looked at as a whole.

    Args:
      subset: draws per active connection, above 0.
    """

    def score(leaf: Connections) -> Array:
        inside = tuple(range(leaf.stacked, leaf.weight.ndim))
        size = max(math.prod(leaf.weight.shape[a] for a in inside), 2)
        n = jnp.sum(leaf.active, axis=inside, dtype=jnp.int32, keepdims=True)
        draws = jnp.floor(n.astype(jnp.float32) * jnp.float32(subset))
        chance = -jnp.expm1(draws * jnp.float32(math.log1p(-1 / size)))
        chosen = (uniform(leaf.key, leaf.weight) < chance) | (n >= size - n)
        return jnp.where(chosen, jnp.abs(leaf.grad), -1.0)

    return score


def random_unexplored(leaf: Connections) -> Array:
    """Random; connections that were never active come first (ITOP's ``random_unfired``)."""
    return uniform(leaf.key, leaf.weight) + jnp.where(leaf.explored, 0.0, 1.0)
