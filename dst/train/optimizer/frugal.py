"""FRUGAL: Adam on some inputs, outputs or entries of every matrix, the sign of the gradient on the
others, which need no state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dst.core.patterns import chosen
from dst.core.registry import named
from dst.core.tree import flatten, is_dense_marker
from dst.core.typing import Array, Params, PyTree
from dst.rules.fields import AboveZero, BelowOne, NotNegative, Positive, Share

Unit = Literal["input", "output", "entry"]


class FrugalState(NamedTuple):
    """What the optimizer remembers.

    Attributes:
      updates: int32, so far.
      chosen: tree like the parameters: int32 places of the part with moments;
        ``optax.MaskedNode``: all of it.
      mu, nu: its moments.
    """

    updates: Array
    chosen: PyTree
    mu: PyTree
    nu: PyTree


@named("frugal", adaptive=True)
def frugal(
    *,
    learning_rate: optax.Schedule,
    weight_decay: float,
    mask: Any,
    density: Share = 0.25,
    every: Positive = 200,
    unit: Literal["input", "output", "entry"] = "input",
    free_scale: NotNegative = 1.0,
    whole: Sequence[str] = ("**/embedding", "**/unembedding/*"),
    seed: NotNegative = 0,
    b1: BelowOne = 0.9,
    b2: BelowOne = 0.999,
    eps: AboveZero = 1e-8,
) -> optax.GradientTransformation:
    """FRUGAL (arXiv 2411.07837), with decoupled weight decay.

    Every ``every`` updates, each matrix draws a new part at random, whose moments begin at zero.
    The part takes Adam's step, the rest ``-learning_rate * free_scale * sign(gradient)``. A weight
    without a gradient, such as an inactive one, stays where it is. Leaves of one dimension take
    Adam's step. The authors' other parts (whole matrices, singular vectors) are left out.

    Args:
      density: share of each matrix that has moments, in [0, 1].
      every: updates between draws, at least 1.
      unit: what is drawn: inputs, outputs or single entries of a matrix.
      free_scale: of the steps without moments, >= 0; 0.1 for fine-tuning.
      whole: patterns of the matrices that take Adam's step as a whole.
      seed: of the draws.
      b1, b2: decay of the moments, in [0, 1).
      eps: added to the denominator, > 0.

    Checked against: a worked step and a loop in NumPy, tests/train/test_frugal.py. Differs from the
    code (fzmushko/FRUGAL, frugal/adamw.py): a part is drawn for each matrix from the seed, the
    leaf and the count, so that a resumed run draws the same.
    """

    def size(path: str, leaf: Any) -> int | None:
        """How many units have moments; None: all."""
        if leaf.ndim < 2 or chosen(list(whole), path):
            return None
        return max(1, round(density * _units(leaf, unit)))

    def init(params: Params) -> FrugalState:
        paths, leaves, treedef = flatten(params)
        sizes = [size(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
        places = [optax.MaskedNode() if n is None else jnp.zeros(n, jnp.int32) for n in sizes]
        parts = [
            x if is_dense_marker(n) else _take(x, n, unit)
            for x, n in zip(leaves, places, strict=True)
        ]
        return FrugalState(
            jnp.zeros([], jnp.int32),
            treedef.unflatten(places),
            treedef.unflatten([jnp.zeros_like(x) for x in parts]),
            treedef.unflatten([jnp.zeros_like(x) for x in parts]),
        )

    def update(grads: PyTree, state: FrugalState, params: Params | None = None) -> Any:
        _, flat, treedef = flatten(grads)
        since = state.updates % every
        rate = learning_rate(state.updates)
        results = []
        nodes = (treedef.flatten_up_to(x) for x in (state.chosen, state.mu, state.nu))
        for i, (g, at, mu, nu) in enumerate(zip(flat, *nodes, strict=True)):
            all_of_it = is_dense_marker(at)
            steps = state.updates if all_of_it else since
            free = jnp.zeros_like(g)
            part = g
            if not all_of_it:
                new = since == 0
                at = jnp.where(new, _drawn(g, len(at), unit, seed, i, state.updates // every), at)
                mu, nu = (jnp.where(new, 0, x) for x in (mu, nu))
                part, free = _take(g, at, unit), free_scale * jnp.sign(g)
            mu = b1 * mu + (1 - b1) * part
            nu = b2 * nu + (1 - b2) * part**2
            step = (mu / (1 - b1 ** (steps + 1))) / (jnp.sqrt(nu / (1 - b2 ** (steps + 1))) + eps)
            direction = step if all_of_it else _put(free, at, step, unit)
            results.append((-rate * direction, at, mu, nu))
        updates, *parts = (treedef.unflatten(x) for x in zip(*results, strict=True))
        return updates, FrugalState(state.updates + 1, *parts)

    decay = optax.add_decayed_weights(weight_decay, mask=mask)

    def decayed(grads: PyTree, state: FrugalState, params: Params | None = None) -> Any:
        rate = learning_rate(state.updates)
        updates, after = update(grads, state, params)
        if weight_decay:
            zeros = jax.tree.map(jnp.zeros_like, updates)
            shrunk, _ = decay.update(zeros, decay.init(params), params)
            updates = jax.tree.map(lambda u, p: u - rate * p, updates, shrunk)
        return updates, after

    return optax.GradientTransformation(init, decayed)


def _units(leaf: Any, unit: Unit) -> int:
    """How many there are of a matrix ``[..., inputs, outputs]``."""
    return int({"input": leaf.shape[-2], "output": leaf.shape[-1], "entry": leaf.size}[unit])


def _drawn(leaf: Array, count: int, unit: Unit, seed: float, number: int, epoch: Array) -> Array:
    """The places of some units, rising."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(int(seed)), number), epoch)
    return jnp.sort(jax.random.permutation(key, _units(leaf, unit))[:count]).astype(jnp.int32)


def _take(leaf: Array, at: Array, unit: Unit) -> Array:
    if unit == "entry":
        return leaf.reshape(-1)[at]
    return jnp.take(leaf, at, axis=-2 if unit == "input" else -1)


def _put(leaf: Array, at: Array, values: Array, unit: Unit) -> Array:
    if unit == "entry":
        return leaf.reshape(-1).at[at].set(values).reshape(leaf.shape)
    where = (..., at, slice(None)) if unit == "input" else (..., at)
    return leaf.at[where].set(values)
