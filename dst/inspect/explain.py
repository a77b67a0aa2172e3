"""One leaf after its last topology step: what changed, how old connections are, what is dead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dst.core import checks, tree
from dst.core.typing import OptState, Params
from dst.engine.masks import ACTIVE, AGE_SHIFT, EXPLORED, OLD
from dst.engine.state import by_path, masks_by_path, sparse_states

_SHOWN = 8  # indices in the text


@dataclass(frozen=True)
class Explanation:
    """What is known of one sparse leaf; printable.

    Attributes:
      path, shape, size: of the leaf.
      active: weights in use.
      explored: share of the weights that were ever active.
      steps: topology steps done.
      at: number of updates before the last topology step; None before the first.
      dropped, grown: connections that the last topology step exchanged.
      dropped_at: int64 ``[n, axes]`` indices of some dropped connections; None without ``before``,
        because a state does not hold its earlier masks.
      grown_at: int64 ``[n, axes]`` indices of some grown connections. Without ``before`` they are
        those of age 0, which includes connections that were dropped and grown at the same step.
      ages: active weights by topology steps since they were grown, ascending; 63 stands for 63
        or more, and for weights that are active from the start.
      smallest_kept: least magnitude among active weights that the last step did not grow; None
        where there is none, or no parameters were given.
      no_input: indices of outputs without an active input; None where the axes are not known.
      no_output: indices of inputs without an active output; likewise.
    """

    path: str
    shape: tuple[int, ...]
    size: int
    active: int
    explored: float
    steps: int
    at: int | None
    dropped: int
    grown: int
    dropped_at: np.ndarray | None
    grown_at: np.ndarray
    ages: Mapping[int, int]
    smallest_kept: float | None
    no_input: np.ndarray | None
    no_output: np.ndarray | None

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        lines = [
            f"{self.path} {shape}: {self.active} of {self.size} active, sparsity "
            f"{1 - self.active / self.size:.4f}, explored {self.explored:.4f}"
        ]
        if self.at is None:
            lines.append("no topology step yet")
        else:
            lines.append(
                f"topology step {self.steps}, after {self.at} updates: dropped {self.dropped}, "
                f"grew {self.grown}"
            )
            if self.dropped_at is not None:
                lines.append(f"  dropped at {_places(self.dropped_at, self.dropped)}")
            lines.append(
                f"  grown at {_places(self.grown_at, max(self.grown, len(self.grown_at)))}"
            )
        if self.smallest_kept is not None:
            lines.append(f"smallest weight kept: {self.smallest_kept:.4g}")
        names = {int(OLD): f"{OLD} or more, or from the start"}
        ages = (f"{names.get(age, age)}: {n}" for age, n in self.ages.items())
        lines.append(f"active by age in topology steps: {'; '.join(ages)}")
        for text, indices in (
            ("outputs without input", self.no_input),
            ("inputs without output", self.no_output),
        ):
            if indices is None:
                lines.append(f"{text}: unknown; name the axes with axes=")
            else:
                lines.append(f"{text}: {_places(indices, len(indices))}")
        return "\n".join(lines)


def explain(
    opt_state: OptState,
    path: str,
    params: Params | None = None,
    *,
    before: OptState | None = None,
    axes: str | None = None,
    stacked: int = 0,
    most: int = 1000,
) -> Explanation:
    """What the last topology step did to one leaf, and in what state the leaf is.

    Args:
      opt_state: state of an optimizer that contains :func:`dst.sparsify`.
      path: of a sparse leaf.
      params: the parameters; adds the smallest weight that was kept.
      before: the optimizer state from before the last topology step; adds where it dropped.
      axes: letters for the axes that are not stacked: ``i`` reduced, ``o`` kept, ``k`` kernel
        window, as in :func:`dst.sparsify`; None: by the shape, where it has one meaning.
      stacked: number of leading axes that enumerate layers.
      most: indices that are kept of each kind, from the lowest on; counts are always whole.

    Returns:
      An :class:`Explanation`, on the host.

    Raises:
      ValueError: no sparse leaf at ``path``, no sparse state, or axes that do not fit.

    Example:
      >>> import dst, optax, jax.numpy as jnp
      >>> params = {"w": jnp.eye(3)}
      >>> tx = dst.sparsify(optax.sgd(0.1), dst.FromMasks({"w": jnp.eye(3, k=1, dtype=bool)}))
      >>> leaf = explain(tx.init(params), "w")
      >>> leaf.no_input.tolist(), leaf.no_output.tolist()
      ([[0]], [[2]])

    Checked against: NumPy on the masks before and after a step, tests/inspect/test_explain.py.
    """
    checks.integer("most", most, at_least=0)
    state_of = {p: s for s in sparse_states(opt_state) for p in by_path(s.masks)}
    checks.one_of("path", path, state_of)
    state = state_of[path]
    byte = np.asarray(by_path(state.masks)[path])
    active, explored = (byte & ACTIVE) != 0, (byte & EXPLORED) != 0
    age = byte >> AGE_SHIFT
    log = state.topology
    done = int(log.done)

    fresh = active & (age == 0)
    dropped_at = None
    if before is not None:
        earlier = np.asarray(masks_by_path(before)[path])
        was = (earlier & ACTIVE) != 0
        dropped_at, fresh = _indices(was & ~active, most), active & ~was
    kept = active & ~fresh
    smallest = None
    if params is not None and kept.any():
        paths, leaves, _ = tree.flatten(params)
        weights = np.asarray(leaves[paths.index(path)]).astype(np.float32)
        smallest = float(np.abs(weights[kept]).min())
    (leaf,) = tree.survey(
        {path: np.zeros(byte.shape, np.float32)},
        select=path,
        stacked={path: stacked} if stacked else None,
        axes={path: axes} if axes else None,
    )
    ages, counts = np.unique(age[active], return_counts=True)
    return Explanation(
        path=path,
        shape=byte.shape,
        size=byte.size,
        active=int(active.sum()),
        explored=float(explored.mean()),
        steps=done,
        at=int(log.at) if done else None,
        dropped=int(np.sum(by_path(log.dropped)[path])),
        grown=int(np.sum(by_path(log.grown)[path])),
        dropped_at=dropped_at,
        grown_at=_indices(fresh, most),
        ages=dict(zip(ages.tolist(), counts.tolist(), strict=True)),
        smallest_kept=smallest,
        no_input=_alone(active, leaf, "o", most),
        no_output=_alone(active, leaf, "i", most),
    )


def _alone(active: np.ndarray, leaf: tree.Leaf, letter: str, most: int) -> np.ndarray | None:
    """Indices along the axes of a letter (and the stacked ones) where nothing is active."""
    if leaf.axes is None or letter not in leaf.axes:
        return None
    letters = ["s"] * leaf.stacked + leaf.axes.split()
    others = tuple(i for i, x in enumerate(letters) if x not in ("s", letter))
    return _indices(~np.asarray(active.any(others)), most)


def _indices(where: np.ndarray, most: int) -> np.ndarray:
    return np.argwhere(where)[:most]


def _places(indices: np.ndarray, count: int) -> str:
    if not count:
        return "none"
    some = [str(tuple(x)) if len(x) > 1 else str(x[0]) for x in indices[:_SHOWN].tolist()]
    more = f" and {count - len(some)} more" if count > len(some) else ""
    return f"{', '.join(some)}{more}"
