"""Scores whose largest are a random sample without replacement, with chances of its own each."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dst.core.draws import uniform
from dst.core.typing import Array
from dst.rules.graph import ch3_l3
from dst.rules.scores import Connections, Score


def sampled_by_size(length: int) -> Score:
    """Ranks that sample without replacement, by ``|w| ** (1 + 2 t / length)``."""

    def score(leaf: Connections) -> Array:
        t = jnp.asarray(leaf.updates, jnp.float32) / jnp.float32(length)
        return _race(jnp.abs(leaf.weight) ** (1 + 2 * t), jax.random.fold_in(leaf.key, 1))

    return score


def sampled_by_graph(leaf: Connections) -> Array:
    """Ranks that sample without replacement, by CH3-L3; the score 0 comes last, at random."""
    present = leaf.active if leaf.kept is None else leaf.kept
    chances = ch3_l3(present, leaf.stacked)
    last = -1e12 * (1 + uniform(leaf.key, leaf.weight))
    return jnp.where(chances > 0, _race(chances, leaf.key), last)


def _race(chances: Array, key: Array) -> Array:
    """``log(u) / chance``: the k largest are a sample of k without replacement.

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", which raises
    ``u`` to ``1 / chance``.
    """
    u = jnp.maximum(uniform(key, chances), jnp.float32(2**-24))
    # The quotient is NaN where a chance is.
    return jnp.where(chances == 0, -jnp.inf, jnp.log(u) / jnp.where(chances == 0, 1, chances))
