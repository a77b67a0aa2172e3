"""Magnitude pruning of trained weights: exact counts, nested masks; and masks without a choice."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import tree
from dst.core.patterns import lookup, require_matches
from dst.core.selection import top_k_masks
from dst.core.typing import Array
from dst.rules.schedule import exact
from dst.studies.lottery.config import Tickets
from dst.train.config.run import ConfigError

Axes = tuple[tuple[int, ...], ...]  # the stacked axes of each leaf


def remaining(size: int, rate: float, rounds: int, rounding: str = "floor") -> int:
    """Weights that are left after some rounds.

    Each round removes ``floor(rate * n)`` of the ``n`` that remain (with ``"ceil"`` that number
    rounded up), in exact arithmetic.

    Args:
      size: weights before the first round.
      rate: share that a round removes, in [0, 1).
      rounds: how many.
      rounding: ``"floor"`` or ``"ceil"``.

    Example:
      >>> [remaining(1000, 0.2, r) for r in range(6)]
      [1000, 800, 640, 512, 410, 328]

    Checked against: two rounds by hand (floor) and 800, 640, 512, 409, 327 of 1000 (ceil):
    tests/studies/lottery/test_pruning.py.
    """
    whole = math.ceil if rounding == "ceil" else math.floor
    for _ in range(rounds):
        size -= whole(exact(rate) * size)
    return size


def prunable(
    arrays: Mapping[str, np.ndarray | Array | jax.ShapeDtypeStruct],
    settings: Tickets,
    select: tree.Select | None = None,
    stacked: Mapping[str, int] | None = None,
    dense: Sequence[str] = (),
) -> dict[str, int]:
    """The leaves that are pruned, with their number of stacked axes.

    Args:
      arrays: anything with a shape and a dtype, by leaf path.
      settings: overrides of 0 leave leaves dense.
      select, stacked: as in :func:`dst.sparsify`.
      dense: patterns of more leaves that stay dense.

    Raises:
      ConfigError: a pattern that matches nothing, nothing to prune, or fixed counts that empty a
        layer.
    """
    overrides = dict.fromkeys(dense, {"sparsity": 0.0})
    try:
        leaves = tree.survey(dict(arrays), select=select, stacked=stacked, overrides=overrides)
        require_matches("lottery.overrides", settings.overrides, list(arrays))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    pruned = {
        leaf.path: leaf.stacked
        for leaf in leaves
        if leaf.sparse and lookup(settings.overrides, leaf.path) != 0
    }
    if not pruned:
        raise ConfigError("no leaf is left to prune. Use sparsify.select or lottery.overrides.")
    if settings.scope == "layer":
        for path, n in pruned.items():
            if _layer_count(path, arrays[path].shape[n:], settings, settings.rounds) == 0:
                raise _emptied(path, settings)
    return pruned


def prune(
    weights: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray] | None,
    leaves: Mapping[str, int],
    settings: Tickets,
    rounds: int,
) -> dict[str, np.ndarray]:
    """The masks after a round: of the active weights those with the largest magnitudes.

    Args:
      weights: trained weights by leaf path.
      masks: bool, before this round; None: all weights are active.
      leaves: number of stacked axes of each leaf that is pruned; every slice is a layer.
      settings: how much is removed, and whether layer by layer.
      rounds: how often the network will have been pruned; the counts follow from it.

    Returns:
      bool masks by leaf path, subsets of those before. Of equal weights, those with the lowest
      index stay.

    Raises:
      ConfigError: a layer that would lose all its weights.

    Checked against: NumPy's sort; two rounds by hand,
    tests/studies/lottery/test_pruning.py::test_two_rounds_by_hand.
    """
    if masks is None:
        masks = {path: np.ones(weights[path].shape, bool) for path in leaves}
    scores = [jnp.abs(jnp.asarray(weights[p]).astype(jnp.float32)) for p in leaves]
    active = [jnp.asarray(masks[p]) for p in leaves]
    axes = tuple(tuple(range(n)) for n in leaves.values())
    if settings.scope == "layer":
        shapes = {path: weights[path].shape[n:] for path, n in leaves.items()}
        counts = [_layer_count(p, shape, settings, rounds) for p, shape in shapes.items()]
        chosen = _best(scores, counts, active, axes)
    else:
        total = sum(weights[p].size for p in leaves)
        count = remaining(total, settings.prune, rounds, settings.rounding)
        chosen = _globally(scores, active, axes, count, settings.min_active)
    kept = {p: np.asarray(m) for p, m in zip(leaves, chosen, strict=True)}
    for path, stacked in leaves.items():
        left = kept[path].sum(tuple(range(stacked, kept[path].ndim)))
        if (left == 0).any():
            raise _emptied(path, settings)
    return kept


def random_masks(
    masks: Mapping[str, np.ndarray], seed: int, leaves: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Masks with as many active weights in every layer, at random places.

    Args:
      masks: bool, by leaf path.
      seed: of the places.
      leaves: number of stacked axes of each leaf; every slice is a layer.
    """
    drawn = {}
    for path, mask in masks.items():
        generator = np.random.default_rng([seed, zlib.crc32(path.encode())])
        layers = mask.reshape(math.prod(mask.shape[: leaves[path]]), -1)
        rows = [generator.permutation(row) for row in layers]
        drawn[path] = np.stack(rows).reshape(mask.shape)
    return drawn


def _emptied(path: str, settings: Tickets) -> ConfigError:
    advice = "lottery.min_active" if settings.scope == "global" else "lottery.overrides"
    return ConfigError(
        f"{path} would lose all its weights within {settings.rounds} rounds. Use fewer, or set "
        f"{advice}."
    )


def _layer_count(path: str, shape: Sequence[int], settings: Tickets, rounds: int) -> int:
    rate = lookup(settings.overrides, path)
    rate = settings.prune if rate is None else rate
    return remaining(math.prod(shape), rate, rounds, settings.rounding)


def _globally(
    scores: list[Array], active: list[Array], axes: Axes, count: int, least: int
) -> list[Array]:
    if least:
        needed = least * sum(
            math.prod(s.shape[: len(a)]) for s, a in zip(scores, axes, strict=True)
        )
        if needed > count:
            raise ConfigError(
                f"lottery.min_active is too large: {least} in every layer make {needed} weights, "
                f"and only {count} remain."
            )
        kept = _best(scores, [least] * len(scores), active, axes)
        scores = [jnp.where(k, jnp.inf, s) for k, s in zip(kept, scores, strict=True)]
    flat = jnp.concatenate([s.reshape(-1) for s in scores])
    where = jnp.concatenate([m.reshape(-1) for m in active])
    (mask,) = _best([flat], [count], [where], ((),))
    ends = np.cumsum([s.size for s in scores])[:-1].tolist()
    parts = jnp.split(mask, ends)
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


@partial(jax.jit, static_argnames="axes")  # counts are traced: one program for all rounds
def _best(
    scores: Sequence[Array], counts: Sequence[Array | int], active: Sequence[Array], axes: Axes
) -> list[Array]:
    return top_k_masks(scores, counts, active, axes)
