"""Sparse fine-tuning: which weights moved most, and an optimizer that moves these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from dst.core import checks, tree
from dst.core.patterns import chosen, require_matches
from dst.core.selection import top_k_masks_together
from dst.core.typing import Array, ArrayLike, OptState, Params, PyTree
from dst.rules.schedule import exact


def most_moved(
    before: Params,
    after: Params,
    *,
    share: float = 0.01,
    count: int | None = None,
    select: str | Sequence[str] | None = None,
    whole: str | Sequence[str] = (),
    where: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Array]:
    """Masks of the weights with the largest ``|after - before|``; all leaves compete.

    The first half of LT-SFT: tune everything, choose, go back to ``before``, and tune what was
    chosen with :func:`train_only`.

    Args:
      before: pytree of weights, of any library.
      after: the same after tuning.
      share: of the weights that compete, rounded down but at least one, in (0, 1].
      count: how many instead, >= 1.
      select: patterns of leaf paths that compete; None: all floating-point leaves.
      whole: patterns of leaves that are tuned whole, such as the head of a task; they do not
        compete.
      where: bool by leaf path: which weights may be chosen, such as the masks of a pruned network,
        whose zeros then stay. Leaves without one compete with all weights.

    Returns:
      bool masks by leaf path; exactly ``count`` weights in all, ties to the earlier leaf and the
      lower index. Masks of whole leaves are True.

    Raises:
      ValueError: trees or masks that do not fit, a pattern that matches nothing, fewer weights than
        ``count``, weights that are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> before = {"w": jnp.array([1.0, 2.0, 3.0, 4.0])}
      >>> most_moved(before, {"w": jnp.array([1.5, 1.9, 3.0, 3.2])}, count=2)["w"].tolist()
      [True, False, False, True]

    References: Ansell et al. 2022, "Composable sparse fine-tuning for cross-lingual transfer"
    (arXiv 2110.07560).
    Checked against: cambridgeltl/composable-sft, src/sft/lt_sft.py, by tables worked out by hand:
    tests/engine/test_train_only.py.
    Differs from its code: the count is exact where changes tie.
    """
    paths, leaves, _ = tree.flatten(before)
    others = dict(zip(*tree.flatten(after)[:2], strict=True))
    _check_fit("after", others, dict(zip(paths, leaves, strict=True)), all_of_them=True)
    where = where or {}
    _check_masks("where", where, dict(zip(paths, leaves, strict=True)))
    every = [p for p, x in zip(paths, leaves, strict=True) if _floating(x)]
    competing, entire = _matched("select", select, every), _matched("whole", whole, every)
    competing = [p for p in competing if p not in entire]
    of = dict(zip(paths, leaves, strict=True))
    moves, allowed = [], []
    for path in competing:
        move = jnp.abs(others[path].astype(jnp.float32) - of[path].astype(jnp.float32))
        if not bool(jnp.isfinite(move).all()):
            raise ValueError(
                f"{path}: expected finite weights before and after, found NaN or infinity. Lower "
                "the learning rate."
            )
        moves.append(move)
        allowed.append(jnp.asarray(where[path], bool) if path in where else None)
    available = sum(
        m.size if w is None else int(w.sum()) for m, w in zip(moves, allowed, strict=True)
    )
    if count is None:
        checks.above_zero("share", share, at_most=1)
        count = max(int(exact(share) * available), 1)
    checks.integer("count", count, at_least=1)
    if count > available:
        raise ValueError(
            f"count must be at most {available}, the weights that compete, got {count}. Lower it, "
            "or let more leaves compete by select=."
        )
    masks = dict(zip(competing, top_k_masks_together(moves, count, allowed), strict=True))
    return {**masks, **{path: jnp.ones(of[path].shape, bool) for path in entire}}


def train_only(
    inner: optax.GradientTransformation, masks: Mapping[str, ArrayLike]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that moves some weights alone; all others keep every bit.

    Gradients of the others are zero, so their moments are zero, and so are their updates, whatever
    weight decay says. Unlike :func:`dst.sparsify` it leaves them at their values, not at zero.

    Args:
      inner: an Optax optimizer.
      masks: bool by leaf path: which weights move. Leaves without a mask stay as they are.

    Raises:
      ValueError: at ``init``: a mask without leaf, of another shape, or not of bools.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> params = {"w": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
      >>> tx = train_only(optax.sgd(0.5), {"w": jnp.array([True, False])})
      >>> updates, _ = tx.update({"w": jnp.ones(2), "b": jnp.ones(1)}, tx.init(params), params)
      >>> after = optax.apply_updates(params, updates)
      >>> after["w"].tolist(), after["b"].tolist()
      ([0.5, 2.0], [3.0])

    References: LT-SFT (arXiv 2110.07560), second half.
    Checked against: training of the chosen weights alone, tests/engine/test_train_only.py.
    Differs from its code: weight decay does not move weights that were not chosen.
    """
    inner = optax.with_extra_args_support(inner)

    def masked(values: PyTree, otherwise: float) -> PyTree:
        paths, leaves, treedef = tree.flatten(values)
        return treedef.unflatten(
            [
                jnp.where(masks[p], x, jnp.asarray(otherwise, x.dtype))
                if p in masks
                else jnp.full_like(x, otherwise)
                for p, x in zip(paths, leaves, strict=True)
            ]
        )

    def init(params: Params) -> OptState:
        paths, leaves, _ = tree.flatten(params)
        _check_masks("masks", masks, dict(zip(paths, leaves, strict=True)))
        return inner.init(params)

    def update(
        grads: PyTree, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, OptState]:
        updates, state = inner.update(masked(grads, 0.0), state, params, **extra)
        return masked(updates, -0.0), state  # x + -0.0 has the bits of x, also where x is -0.0

    return optax.GradientTransformationExtraArgs(init, update)


def _floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _matched(
    argument: str, patterns: str | Sequence[str] | None, paths: Sequence[str]
) -> list[str]:
    if patterns is None:
        return list(paths)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    require_matches(argument, [p.removeprefix("!") for p in patterns], paths)
    return [p for p in paths if patterns and chosen(patterns, p)]


def _check_masks(name: str, masks: Mapping[str, ArrayLike], of: Mapping[str, Any]) -> None:
    for path, mask in masks.items():
        if jnp.result_type(mask) != jnp.bool_:
            raise ValueError(
                f"{name}: expected bool masks, found {jnp.result_type(mask)} at {path!r}."
            )
    _check_fit(name, masks, of)


def _check_fit(
    name: str, found: Mapping[str, Any], of: Mapping[str, Any], *, all_of_them: bool = False
) -> None:
    unknown = sorted(found.keys() - of.keys())
    if all_of_them:
        unknown = sorted(found.keys() ^ of.keys())
    if unknown:
        raise ValueError(
            f"{name} does not fit the parameters: only one of both has {unknown}. The parameters "
            f"are at: {', '.join(of)}."
        )
    for path, value in found.items():
        if np.shape(value) != tuple(of[path].shape):
            raise ValueError(
                f"{name} does not fit the parameters: {path} must have shape "
                f"{tuple(of[path].shape)}, got {np.shape(value)}."
            )
