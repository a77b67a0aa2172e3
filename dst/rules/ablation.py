"""SRigL's counts: the same number of inputs for every active neuron, none for ablated ones."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from dst.core import checks
from dst.core.patterns import matches
from dst.core.reductions import totals
from dst.core.selection import top_k_masks
from dst.core.typing import Array
from dst.rules.counts import TopologyInputs, exchanged
from dst.rules.layout import Layout
from dst.rules.rule import Counts


def ablation(gamma: float, gamma_of: str, output: str | None) -> Counts:
    """Counts of connections per neuron; arguments as in :class:`dst.SRigL`.

    A layer is a leaf, or a slice of its stacked axes.
    """

    def counts(inputs: TopologyInputs) -> list[tuple[Array, Array]]:
        pattern = inputs.paths[-1] if output is None else output
        if not any(matches(pattern, path) for path in inputs.paths):
            raise ValueError(
                f"output: pattern {pattern!r} matches no sparse layer."
                f"{checks.nearest(pattern, inputs.paths)} "
                f"The layers are: {', '.join(inputs.paths)}."
            )
        stacks = [tuple(range(len(x.counts))) for x in inputs.layouts]
        weight = [x.pool(inputs.rule.which.drop(leaf)) for x, leaf in _leaves(inputs)]
        grow = inputs.rule.which.grow or inputs.rule.which.drop
        gradient = [x.pool(grow(leaf)) for x, leaf in _leaves(inputs)]
        active = [x.units_of(leaf.active) for x, leaf in _leaves(inputs)]
        kept, dropped = _layer_counts(inputs, weight, active)

        salient = top_k_masks(
            weight + gradient, kept + dropped, active + [None] * len(active), stacks * 2
        )
        pairs = zip(salient[: len(weight)], salient[len(weight) :], strict=True)
        saliency = [
            totals([a | b], _fan_in(x))[0] for (a, b), x in zip(pairs, inputs.layouts, strict=True)
        ]
        enough = _enough(inputs, saliency, stacks)
        stays = []
        for x, total, path, c, least in zip(
            inputs.layouts, inputs.total, inputs.paths, saliency, enough, strict=True
        ):
            of = total if gamma_of == "sparse" else jnp.full_like(total, x.units)
            asked = jnp.floor(jnp.float32(gamma) * of.astype(jnp.float32)).astype(jnp.int32)
            threshold = _broadcast(jnp.minimum(jnp.maximum(asked, 1), least), c)
            spare = gamma == 0 or matches(pattern, path)
            stays.append(jnp.ones_like(c, bool) if spare else c >= threshold)

        alive = [
            lax.expand_dims(s, _fan_in(x)) & a
            for s, x, a in zip(stays, inputs.layouts, active, strict=True)
        ]
        largest = top_k_masks(weight, kept, alive, stacks)
        per_neuron = []
        for x, total, s, best in zip(inputs.layouts, inputs.total, stays, largest, strict=True):
            (survive,) = totals([best], _fan_in(x))
            (neurons,) = totals([s], tuple(range(total.ndim, s.ndim)))
            each = total * jnp.int32(x.weights_per_count) // jnp.maximum(neurons, 1)
            after = jnp.where(s, _broadcast(jnp.minimum(each, x.units), s), 0)
            per_neuron.append((jnp.minimum(survive, after), after))
        return per_neuron

    return counts


def _leaves(inputs: TopologyInputs):
    return zip(inputs.layouts, inputs.leaves, strict=True)


def _fan_in(layout: Layout) -> tuple[int, ...]:
    return tuple(a for a in range(len(layout.split)) if a not in layout.groups)


def _layer_counts(
    inputs: TopologyInputs, weight: list[Array], active: list[Array]
) -> tuple[list[Array], list[Array]]:
    """Per layer: how many non-zero weights magnitude keeps, and how many others are dropped."""
    kept, dropped = [], []
    for x, w, a in zip(inputs.layouts, weight, active, strict=True):
        n, used = totals([a, a & (w > 0)], tuple(range(len(x.counts), a.ndim)))
        stay = n - exchanged(n, inputs.share, inputs.rule.how_many.rounding)
        kept.append(jnp.minimum(stay, used))
        dropped.append(n - kept[-1])
    return kept, dropped


def _enough(
    inputs: TopologyInputs, saliency: list[Array], stacks: list[tuple[int, ...]]
) -> list[Array]:
    """The highest saliency threshold that leaves as many neurons as a layer's budget needs."""
    needed = [
        total * jnp.int32(x.weights_per_count) // x.units + 1
        for x, total in zip(inputs.layouts, inputs.total, strict=True)
    ]
    scores = [c.astype(jnp.float32) for c in saliency]
    best = top_k_masks(scores, needed, [None] * len(scores), stacks)
    most = jnp.int32(2**31 - 1)
    return [
        jnp.min(jnp.where(b, c, most), axis=tuple(range(len(stack), c.ndim)))
        for b, c, stack in zip(best, saliency, stacks, strict=True)
    ]


def _broadcast(per_slice: Array, like: Array) -> Array:
    return lax.expand_dims(per_slice, range(per_slice.ndim, like.ndim))
