"""What the wrapped optimizer remembers of dropped weights, and the cold start of grown ones.

The optimizer's slots of dropped and grown weights are set to zero. Slots are recognised by their
place and shape in the state, never by the class of the state. Adam's bias correction counts the
steps of the whole run. So the first updates of a grown weight are up to 6.57 times too large (at
the decays 0.9 and 0.999). SMET (arXiv 2606.00888) names this as the reason why sparse training
destabilises large models. The correction here counts the steps of each weight instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dst.core.tree import flatten, is_dense_marker
from dst.core.typing import Array, OptState, Params, PyTree
from dst.engine import masks
from dst.engine.flat import Flat
from dst.engine.state import SparsifyState
from dst.rules.rule import Rule


def reset(inner: optax.GradientTransformation, state: OptState, where: PyTree) -> OptState:
    """Sets optimizer state to zero at some weights.

    Args:
      inner: the optimizer that the state belongs to.
      state: its state.
      where: tree like the parameters: bool arrays, ``optax.MaskedNode`` for dense leaves.

    Returns:
      The new state. Slots of another shape or form than the parameter (factored second moments,
      one value per row or column) do not change: none of their entries belongs to a single weight.
    """
    return at_slots(inner, state, where, lambda v, w: jnp.where(w, jnp.zeros_like(v), v))


def at_slots(
    inner: optax.GradientTransformation,
    state: OptState,
    where: PyTree,
    change: Callable[[Array, Any], Array],
) -> OptState:
    """Optimizer state with the slots of sparse leaves changed.

    Args:
      inner, state: as in :func:`reset`.
      where: tree like the parameters: anything with the shape of its leaf, ``optax.MaskedNode`` for
        dense leaves.
      change: from a slot of that shape, and what stands in ``where``.
    """

    def leaf(node: Any) -> bool:
        return is_dense_marker(node) or isinstance(node, list)

    def slot(value: Any, there: Any) -> Any:
        if isinstance(value, list):  # of parameters; or of SM3, whose parameter is one array
            alike = isinstance(there, list) and len(there) == len(value)
            pairs = zip(value, there, strict=True) if alike else ()
            return [jax.tree.map(slot, v, t, is_leaf=leaf) for v, t in pairs] or value
        if is_dense_marker(value) or is_dense_marker(there):
            return value
        if getattr(value, "shape", None) != there.shape:
            return value
        return change(value, there)

    return optax.tree.map_params(inner, slot, state, where, is_leaf=leaf)


def check_slots(inner: optax.GradientTransformation, state: OptState, where: PyTree) -> None:
    """Raises where the slots of an optimizer cannot be set to zero at single weights.

    Args:
      inner, state, where: as in :func:`reset`; shapes will do.
    """
    try:
        jax.eval_shape(lambda s, w: reset(inner, s, w), state, where)
    except Exception as error:
        kinds = sorted({type(node).__name__ for node in _named_tuples(state)})
        raise ValueError(
            f"the state of the inner optimizer ({', '.join(kinds)}) cannot be set to zero at grown "
            "weights. Use a method whose masks do not change, or an optimizer whose state has one "
            f"entry per weight. {type(error).__name__}: {error!s:.80}"
        ) from error


def _named_tuples(state: OptState) -> Iterator[Any]:
    if hasattr(state, "_fields"):
        yield state
    for node in state if isinstance(state, (tuple, list)) else ():
        yield from _named_tuples(node)


def adam_decays(
    inner: optax.GradientTransformationExtraArgs, params: Params
) -> dict[str, tuple[float, float]]:
    """The decay rates ``(b1, b2)`` of every leaf that an Adam-like rule updates, by leaf path.

    Optax keeps the rates in closures, so they are measured on a one-weight copy of every leaf. A
    second update with a zero gradient multiplies each moment by its decay. A state counts as
    Adam's where its ``mu`` and ``nu`` behave as first and second moment.
    """
    with jax.ensure_compile_time_eval():
        tiny = jax.tree.map(lambda x: jnp.zeros((1,) * x.ndim, jnp.float32), params)
        try:
            state = inner.init(tiny)
            if not _adam_states(state):
                return {}
            ones, nothing = jax.tree.map(jnp.ones_like, tiny), tiny
            _, first = inner.update(ones, state, tiny)
            _, second = inner.update(nothing, first, tiny)
        except Exception:  # optimizers that need more than gradients, or other shapes
            return _assumed(jax.eval_shape(inner.init, params))
        rates: dict[str, tuple[float, float]] = {}
        for before, after in zip(_adam_states(first), _adam_states(second), strict=True):
            mu, nu = _by_path(before.mu), _by_path(before.nu)
            for path in nu.keys() & mu.keys():
                m, v = float(mu[path].sum()), float(nu[path].sum())
                if m == 0 or v == 0:
                    continue
                b1 = float(_by_path(after.mu)[path].sum()) / m
                b2 = float(_by_path(after.nu)[path].sum()) / v
                second_moment = math.isclose(v * (1 - b1) ** 2, m**2 * (1 - b2), rel_tol=1e-2)
                if 0 <= b1 < 1 and 0 < b2 < 1 and second_moment:
                    rates[path] = (b1, b2)
        return rates


def _assumed(state: OptState) -> dict[str, tuple[float, float]]:
    return {path: (0.9, 0.999) for s in _adam_states(state) for path in _by_path(s.nu)}


def _adam_states(state: OptState) -> list[Any]:
    def adam(node: Any) -> bool:
        return {"count", "mu", "nu"} <= set(getattr(node, "_fields", ()))

    return [node for node in jax.tree.leaves(state, is_leaf=adam) if adam(node)]


def _by_path(tree: PyTree) -> dict[str, Any]:  # arrays, or their shapes
    paths, leaves, _ = flatten(tree)
    return dict(zip(paths, leaves, strict=True))


def local_correction(steps: Array, count: Array, decays: Array) -> Array:
    """The factor that turns Adam's global bias correction into one by the age of the weight.

    ``(1 - b1^t) / (1 - b1^j) * sqrt((1 - b2^j) / (1 - b2^t))`` for a weight in its ``j``-th
    step when the optimizer does its ``t``-th. Constant gradients then give updates of constant
    size, as they do for weights that were active from the start.

    Args:
      steps: float32, j >= 1, of any shape.
      count: float32 scalar, t.
      decays: float32 (b1, b2).

    Returns:
      float32, of the shape of ``steps``.
    """
    # `exp` rather than `expm1` and powers: it is vectorised, and this runs on every weight in
    # every step. The relative error for j (1 - b2) = 0.001 is below 1e-4.
    log1, log2 = jnp.log(decays[0]), jnp.log(decays[1])
    whole_run = (1 - jnp.exp(log1 * count)) / jnp.sqrt(1 - jnp.exp(log2 * count))
    return whole_run * jnp.sqrt(1 - jnp.exp(log2 * steps)) / (1 - jnp.exp(log1 * steps))


def decays(
    inner: optax.GradientTransformationExtraArgs, params: Params, rule: Rule, flat: Flat
) -> PyTree:
    """Decays of Adam-like optimizers by leaf; ``MaskedNode`` where no update is corrected."""
    wanted = rule.reset.cold_start != "off" and rule.which.grow is not None and bool(flat.plans)
    known = adam_decays(inner, params) if wanted else {}
    return flat.map(
        lambda p: (
            jnp.array(known[p.leaf.path], jnp.float32)
            if p.leaf.path in known
            else optax.MaskedNode()
        )
    )


def scale(rule: Rule, flat: Flat, state: SparsifyState, updates: list[Array]) -> list[Array]:
    """The updates of all sparse leaves, corrected for recently grown weights."""
    reset = rule.reset
    if reset.cold_start == "off" or rule.which.grow is None:
        return updates
    skipped = 0 if reset.update_weights else 1  # topology steps that the inner optimizer missed
    log = state.topology
    since = (state.count - log.at).astype(jnp.float32)
    spacing = (log.spacing - skipped).astype(jnp.float32)
    count = (state.count + 1 - skipped * log.done).astype(jnp.float32)

    scaled = []
    for update, mask, decays in zip(
        updates, flat.of(state.masks), flat.of(state.hyper.decays), strict=True
    ):
        age = masks.age(mask)
        steps = since + age.astype(jnp.float32) * spacing
        factors = []
        if isinstance(reset.cold_start, int):
            factors.append(jnp.minimum(steps / reset.cold_start, 1.0))
        if not is_dense_marker(decays):
            factors.append(local_correction(steps, count, decays))
        if factors:
            factor = jnp.where(age < masks.OLD, math.prod(factors), 1.0)
            update = update * factor.astype(update.dtype)
        scaled.append(update)
    return scaled
