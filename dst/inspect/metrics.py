"""What a sparse state contains: masks, metrics, tables, comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dst.core import tree
from dst.core.text import aligned
from dst.core.typing import Array, ArrayLike, OptState, Params
from dst.engine.masks import ACTIVE, EXPLORED, active
from dst.engine.state import by_path, masks_by_path, sparse_states


def masks(opt_state: OptState) -> dict[str, Array]:
    """bool masks of the sparse leaves, by leaf path.

    Args:
      opt_state: state of an optimizer that contains :func:`dst.sparsify`, at any depth.

    Raises:
      ValueError: no sparse state in it.
    """
    return {path: active(m) for path, m in masks_by_path(opt_state).items()}


def explored(opt_state: OptState) -> dict[str, Array]:
    """bool: which connections were ever active, by leaf path (ITOP's set)."""
    return {path: (m & EXPLORED) != 0 for path, m in masks_by_path(opt_state).items()}


def metrics(opt_state: OptState, params: Params | None = None) -> dict[str, Array]:
    """Scalars for a logger; usable under ``jit``.

    Args:
      opt_state: state of an optimizer that contains :func:`dst.sparsify`.
      params: the parameters; adds the sparsity of the whole model, dense leaves included.

    Returns:
      float32 and int32 scalars: ``sparsity`` of the selected weights, ``explored`` (R_s of ITOP,
      arXiv 2102.02887), ``dropped`` and ``grown`` at the last topology step, ``topology_steps``,
      ``unscored`` (NaN scores there), ``sparsity_model``, and ``sparsity/<path>``,
      ``explored/<path>``, ``dropped/<path>``, ``grown/<path>`` per layer.
    """
    stored = masks_by_path(opt_state)
    sizes = {path: m.size for path, m in stored.items()}
    total = max(sum(sizes.values()), 1)
    used = {path: jnp.sum(active(m), dtype=jnp.int32) for path, m in stored.items()}
    tried = {path: jnp.sum(m, dtype=jnp.int32) for path, m in explored(opt_state).items()}
    logs = [s.topology for s in sparse_states(opt_state)]
    zero = jnp.zeros([], jnp.int32)

    def share(counts: Mapping[str, Array], of: int) -> Array:
        return sum(
            (n.astype(jnp.float32) / of for n in counts.values()), jnp.zeros([], jnp.float32)
        )

    result = {
        "sparsity": 1.0 - share(used, total) if stored else jnp.zeros([], jnp.float32),
        "explored": share(tried, total),
        "topology_steps": sum((jnp.asarray(x.done) for x in logs), zero),
    }
    for name in ("dropped", "grown", "unscored"):
        per_leaf = {
            p: jnp.sum(n, dtype=jnp.int32)
            for x in logs
            for p, n in by_path(getattr(x, name)).items()
        }
        result[name] = sum(per_leaf.values(), zero)
        if name != "unscored":
            result |= {f"{name}/{path}": n for path, n in per_leaf.items()}
    for path in stored:
        result[f"sparsity/{path}"] = 1.0 - used[path].astype(jnp.float32) / sizes[path]
        result[f"explored/{path}"] = tried[path].astype(jnp.float32) / sizes[path]
    if params is not None:
        _, leaves, _ = tree.flatten(tree.parameters(params))
        whole = max(sum(x.size for x in leaves), 1)
        inactive = total - sum(used.values(), zero) if stored else zero
        result["sparsity_model"] = inactive.astype(jnp.float32) / whole
    return result


@dataclass(frozen=True)
class Row:
    """One line of :func:`table`: the present state of a leaf.

    Attributes:
      path, shape, size: of the leaf.
      active: weights in use.
      explored: share of the weights that were ever active; None for dense leaves.
      dropped, grown: connections at the last topology step; None for dense leaves.
    """

    path: str
    shape: tuple[int, ...]
    size: int
    active: int
    explored: float | None = None
    dropped: int | None = None
    grown: int | None = None

    @property
    def sparsity(self) -> float:
        """1 - active / size."""
        return 1 - self.active / self.size if self.size else 0.0


def rows(opt_state: OptState, params: Params) -> list[Row]:
    """One row per leaf, in the order of the tree; integers, on the host."""
    stored = masks_by_path(opt_state)
    logs = [s.topology for s in sparse_states(opt_state)]
    dropped = {p: n for x in logs for p, n in by_path(x.dropped).items()}
    grown = {p: n for x in logs for p, n in by_path(x.grown).items()}
    result = []
    paths, leaves, _ = tree.flatten(tree.parameters(params))
    for path, leaf in zip(paths, leaves, strict=True):
        shape, size = tuple(leaf.shape), int(leaf.size)
        if path not in stored:
            result.append(Row(path, shape, size, active=size))
            continue
        mask = np.asarray(stored[path])
        result.append(
            Row(
                path,
                shape,
                size,
                active=int(((mask & ACTIVE) != 0).sum()),
                explored=float(((mask & EXPLORED) != 0).mean()),
                dropped=int(np.sum(dropped[path])),
                grown=int(np.sum(grown[path])),
            )
        )
    return result


def table(opt_state: OptState, params: Params) -> str:
    """A table of every leaf: shape, active weights, sparsity, explored, dropped and grown.

    The last lines give the sparsity of the selected weights and of the whole model.
    """
    leaves = rows(opt_state, params)
    lines = [("leaf", "shape", "active", "of", "sparsity", "explored", "dropped", "grown")]
    for r in leaves:
        dense = r.explored is None
        lines.append(
            (
                r.path,
                "x".join(map(str, r.shape)) or "scalar",
                str(r.active),
                str(r.size),
                "dense" if dense else f"{r.sparsity:.4f}",
                "" if dense else f"{r.explored:.4f}",
                "" if dense else str(r.dropped),
                "" if dense else str(r.grown),
            )
        )
    text = aligned(lines)
    for name, counted in (
        ("selected", [r for r in leaves if r.explored is not None]),
        ("model", leaves),
    ):
        active, size = sum(r.active for r in counted), sum(r.size for r in counted)
        if size:
            text.append(f"{name}: {active} of {size} active, sparsity {1 - active / size:.4f}")
    return "\n".join(text)


@dataclass(frozen=True)
class Overlap:
    """Two masks of one layer.

    Attributes:
      size: weights.
      active: of the first and of the second mask.
      shared: active in both.
      expected: shared active weights if the second mask were drawn at random.
      churn: fraction of the first mask's active connections that the second lacks.
    """

    size: int
    active: tuple[int, int]
    shared: int
    expected: float
    churn: float


def compare(first: Mapping[str, ArrayLike], second: Mapping[str, ArrayLike]) -> dict[str, Overlap]:
    """Overlap of two mask dictionaries, layer by layer, beside what chance would give.

    Args:
      first, second: bool arrays by leaf path, as :func:`masks` returns them.

    Raises:
      ValueError: different leaves or shapes.

    Example:
      >>> import numpy as np
      >>> a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
      >>> compare({"w": a}, {"w": b})["w"].churn
      0.5
    """
    if first.keys() != second.keys():
        raise ValueError(
            f"masks to compare must have the same leaves; only one has "
            f"{sorted(first.keys() ^ second.keys())}."
        )
    result = {}
    for path in first:
        a, b = np.asarray(first[path], bool), np.asarray(second[path], bool)
        if a.shape != b.shape:
            raise ValueError(f"masks of {path} have shapes {a.shape} and {b.shape}.")
        n, m, shared = int(a.sum()), int(b.sum()), int((a & b).sum())
        result[path] = Overlap(
            size=a.size,
            active=(n, m),
            shared=shared,
            expected=n * m / a.size if a.size else 0.0,
            churn=(n - shared) / n if n else 0.0,
        )
    return result
