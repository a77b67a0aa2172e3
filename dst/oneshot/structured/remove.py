"""``remove``: a dense network in, a smaller dense one out, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dst.core import checks, tree
from dst.core.patterns import lookup, require_matches
from dst.core.text import shown
from dst.core.typing import Batch, Params, PyTree, Tree
from dst.oneshot.calibrate import Where, as_batches
from dst.oneshot.structured.flap import FLAP
from dst.oneshot.structured.groups import Group, Groups, channel_groups
from dst.oneshot.structured.magnitude import Magnitude
from dst.oneshot.structured.removal import Removal, check_members
from dst.oneshot.structured.units import (
    NEEDS,
    Read,
    Units,
    UnitScore,
    mean_gradients,
    parts_of,
    reads_of,
)
from dst.rules.allocation import zeros

_MAGNITUDE = Magnitude()


def remove(
    params: Tree,
    fraction: float | Mapping[str, float],
    *,
    groups: Groups | None = None,
    score: UnitScore = _MAGNITUDE,
    forward: Callable[[Params, Batch], PyTree] | None = None,
    batches: Iterable[Batch] | None = None,
    loss: Callable[[Params, Batch], Any] | None = None,
    where: Where | None = None,
) -> tuple[Tree, Removal]:
    """Removes units of lowest score from a trained network: a smaller dense network is left.

    Of every group ``floor(fraction * units)`` units go, with all of their weights in all leaves.
    The outputs are those of the network at its full size with these weights set to zero.

    Args:
      params: any pytree of weights; not changed.
      fraction: of the units, in [0, 1); or by pattern of group names, where groups that none
        matches stay whole.
      groups: of :func:`dst.channel_groups`; None: all that it finds in ``forward``.
      score: :class:`dst.oneshot.structured.Magnitude`, ``Wanda``, ``FLAP``, ``Taylor`` or your own.
      forward: ``forward(params, batch)``; for ``groups=None`` and for scores of inputs.
      batches: calibration data: pytrees of arrays, all of one shape.
      loss: ``loss(params, batch)``, a scalar; for scores of gradients.
      where: ``where(batch)``: bool, which rows count, as for :func:`dst.calibrate`.

    Returns:
      The smaller parameters, of the same tree and dtypes, and what was removed. Its ``masked``
      gives the network at its full size.

    Raises:
      ValueError: a fraction outside [0, 1), a pattern that matches no group, data that the score
        needs and that is missing, no unit that can be removed; under ``FLAP`` a matrix without a
        bias.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
      >>> forward = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
      >>> smaller, removal = dst.remove(params, 0.25, forward=forward, batches=[jnp.ones((4, 3))])
      >>> {name: x.shape for name, x in smaller.items()}
      {'a': (3, 6), 'b': (6, 2)}
      >>> bool(jnp.allclose(forward(smaller, 1.0 * jnp.ones((4, 3))),
      ...                   forward(removal.masked(params), jnp.ones((4, 3)))))
      True

    References: the scores name theirs.
    Checked against: outputs of masked networks (``tests/oneshot/structured/test_remove.py``).
    """
    if not isinstance(score, UnitScore) or getattr(score, "needs", None) not in NEEDS:
        raise ValueError(
            "score must be one such as dst.oneshot.structured.Magnitude(), with `needs` of "
            f"{', '.join(NEEDS)}, got {shown(score)}."
        )
    data = None if batches is None else as_batches(batches)
    groups = _found(groups, forward, params, data)
    share = shares(fraction, groups)
    chosen = Groups({x.name: x for x in groups if share[x.name] is not None})
    check_members(chosen, params)
    views = _views(score, chosen, params, forward, data, loss, where)
    scores, kept = {}, {}
    for view in views:
        name = view.group.name
        scores[name] = _checked(score, view)
        kept[name] = best(view.group, scores[name], share[name] or 0.0)
    shifts = {}
    if isinstance(score, FLAP) and score.compensate:
        shifts = _shifts(score, views, kept, params)
    removal = Removal(chosen, kept, scores, shifts)
    return removal.smaller(params), removal


def best(group: Group, scores: np.ndarray, fraction: float) -> np.ndarray:
    """bool ``[units]``: the units of highest score, equally many of each run; ties to the first."""
    units = group.units // group.runs
    count = units - zeros(units, fraction)
    order = np.argsort(-scores.reshape(group.runs, units), axis=1, kind="stable")
    kept = np.zeros((group.runs, units), bool)
    np.put_along_axis(kept, order[:, :count], True, axis=1)
    return kept.reshape(-1)


def _found(groups: Groups | None, forward: Any, params: Params, data: Any) -> Groups:
    if groups is None:
        if forward is None or data is None:
            raise ValueError(
                "remove: expected groups= of dst.channel_groups, or forward= and batches= to find "
                "them, found neither."
            )
        groups = channel_groups(forward, params, data[0])
    if not len(groups):
        raise ValueError(
            "remove: expected at least one group of units that can be removed, found none. See "
            "dst.channel_groups for what is not removable."
        )
    return groups


def shares(fraction: Any, groups: Groups) -> dict[str, float | None]:
    """The fraction of each group; None: it stays whole.

    Raises:
      ValueError: a fraction outside [0, 1), or a pattern that matches no group.
    """
    if not isinstance(fraction, Mapping):
        checks.fraction("fraction", fraction, below_one=True)
        return {x.name: fraction for x in groups}
    require_matches("fraction", fraction, [x.name for x in groups])
    for pattern, share in fraction.items():
        checks.fraction(f"fraction of {pattern}", share, below_one=True)
    return {x.name: lookup(fraction, x.name) for x in groups}


def _views(
    score: UnitScore,
    groups: Groups,
    params: Params,
    forward: Any,
    data: Any,
    loss: Any,
    where: Where | None,
) -> list[Units]:
    """What the score sees of every group."""
    name, gradients = type(score).__name__, None
    reads: dict[str, tuple[Read, ...]] = {}
    if score.needs == "inputs":
        if forward is None or data is None:
            raise ValueError(f"{name} looks at calibration data: give forward= and batches=.")
        reads = reads_of(forward, params, data, groups, where)
    elif score.needs == "gradients":
        if loss is None or data is None:
            raise ValueError(f"{name} looks at gradients: give loss=, a scalar, and batches=.")
        gradients = mean_gradients(loss, params, data)
    leaves = dict(zip(*tree.flatten(params)[:2], strict=True))
    return [Units(x, parts_of(x, leaves, gradients), reads.get(x.name, ())) for x in groups]


def _checked(score: UnitScore, view: Units) -> np.ndarray:
    found = np.asarray(score.scores(view))
    if found.shape != (view.group.units,) or not np.isfinite(found).all():
        raise ValueError(
            f"{view.group.name}: expected {type(score).__name__} to return {view.group.units} "
            f"finite numbers, got {shown(found)}."
        )
    return found


def _shifts(
    score: FLAP, views: list[Units], kept: Mapping[str, np.ndarray], params: Params
) -> dict[tuple[str, int | None], np.ndarray]:
    leaves = dict(zip(*tree.flatten(params)[:2], strict=True))
    found: dict[tuple[str, int | None], np.ndarray] = {}
    for view in views:
        for read in view.reads:
            shift = score.shift(read, ~kept[view.group.name])
            member = read.member
            path = f"{member.path.rpartition('/')[0]}/bias"
            size = np.size(leaves[path]) if path in leaves else 0
            if size != shift.size * (1 if member.row is None else len(leaves[member.path])):
                raise ValueError(
                    f"FLAP adds to the bias of what reads the units: expected a leaf {path} of "
                    f"{shift.size} numbers, found {size or 'none'}. Give the layer a bias, or use "
                    "FLAP(compensate=False)."
                )
            found[path, member.row] = found.get((path, member.row), 0) + shift
    return found
