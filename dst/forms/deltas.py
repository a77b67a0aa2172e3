"""Sparse changes of a model: few weights, which add up, and which go away without a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dst.core import tree
from dst.core.typing import Params, Tree


class Change(NamedTuple):
    """What a delta does to one leaf.

    Attributes:
      indices: of the flat leaf, ascending; uint32, or int64 in leaves beyond its range.
      changes: float64, what is added.
      before: what stood there, in the type of the leaf.
    """

    indices: np.ndarray
    changes: np.ndarray
    before: np.ndarray


@dataclass(frozen=True)
class Delta:
    """The weights that tuning has changed, and what they were before.

    Attributes:
      base: SHA-256 of the model that was tuned, by :func:`fingerprint`.
      leaves: a :class:`Change` by leaf path.
    """

    base: str
    leaves: Mapping[str, Change] = field(repr=False)

    @property
    def count(self) -> int:
        """Weights that change."""
        return sum(len(x.indices) for x in self.leaves.values())


def fingerprint(params: Params) -> str:
    """SHA-256 over the paths, types, shapes and bits of all parameters, in the order of paths."""
    sha256 = hashlib.sha256()
    paths, leaves, _ = tree.flatten(tree.parameters(params))
    for path, leaf in sorted(zip(paths, leaves, strict=True), key=lambda x: x[0]):
        array = np.asarray(leaf)
        sha256.update(f"{path} {array.dtype} {array.shape}\n".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def delta(before: Params, after: Params) -> Delta:
    """The change from one model to another of the same shapes.

    Args:
      before: the base: a pytree of weights.
      after: what tuning made of it.

    Raises:
      ValueError: other leaves, shapes or types; an integer leaf that changes; weights that are not
        finite.

    Example:
      >>> import jax.numpy as jnp
      >>> base = {"w": jnp.array([1.0, 2.0, 3.0])}
      >>> task = delta(base, {"w": jnp.array([1.0, 2.5, 3.0])})
      >>> language = delta(base, {"w": jnp.array([0.0, 2.25, 3.0])})
      >>> both = apply_deltas(base, [task, language])
      >>> both["w"].tolist(), revert_deltas(both, [task, language])["w"].tolist()
      ([0.0, 2.75, 3.0], [1.0, 2.0, 3.0])

    References: Ansell et al. 2022, "Composable sparse fine-tuning for cross-lingual transfer"
    (arXiv 2110.07560).
    Checked against: sums in NumPy, bit by bit: tests/forms/test_deltas.py.
    Differs from its code: changes of at most 1e-7 are kept, too.
    """
    old, new = _arrays(before), _arrays(after)
    if old.keys() != new.keys():
        raise ValueError(
            f"the models do not fit: only one of both has {sorted(old.keys() ^ new.keys())}."
        )
    leaves = {}
    for path, a in old.items():
        b = new[path]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"the models do not fit: {path} must be {a.dtype}{a.shape}, got {b.dtype}{b.shape}."
            )
        a, b = a.reshape(-1), b.reshape(-1)
        at = np.flatnonzero(a != b)
        if not at.size:
            continue
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise ValueError(f"{path}: expected no change of {a.dtype}, found {at.size} weights.")
        changes = b[at].astype(np.float64) - a[at].astype(np.float64)
        if not np.isfinite(changes).all():
            raise ValueError(f"{path}: expected finite weights, found NaN or infinity.")
        kind = np.uint32 if a.size <= np.iinfo(np.uint32).max else np.int64
        leaves[path] = Change(at.astype(kind), changes, a[at])
    return Delta(fingerprint(before), leaves)


def apply_deltas(params: Tree, deltas: Sequence[Delta]) -> Tree:
    """The base with the sum of all changes; their order does not matter, to the last bit.

    Changes are added in float64 and rounded once. One delta alone gives tuned weights of at most 32
    bits bit for bit, unless one has shrunk by more than a factor of 2^29, or is a negative zero.

    Args:
      params: the base.
      deltas: made from it.

    Raises:
      ValueError: a delta of another base.
    """
    _check_base(fingerprint(params), deltas, "Apply it to the model from which it was made")
    paths, leaves, treedef = tree.flatten(params)
    result = []
    for path, leaf in zip(paths, leaves, strict=True):
        found = [d.leaves[path] for d in deltas if path in d.leaves]
        if not found:
            result.append(leaf)
            continue
        indices = np.concatenate([x.indices for x in found]).astype(np.int64)
        changes = np.concatenate([x.changes for x in found])
        order = np.lexsort((changes, indices))  # equal sums, whatever the order of the deltas
        at, starts = np.unique(indices[order], return_index=True)
        flat = np.array(leaf).reshape(-1)
        total = flat[at].astype(np.float64) + np.add.reduceat(changes[order], starts)
        flat[at] = total.astype(flat.dtype)
        result.append(jnp.asarray(flat.reshape(np.shape(leaf))))
    return treedef.unflatten(result)


def revert_deltas(params: Tree, deltas: Sequence[Delta]) -> Tree:
    """The base again, bit for bit.

    Args:
      params: the base with these deltas, all that were applied.
      deltas: in any order.

    Raises:
      ValueError: deltas of different bases, or other leaves; a model that has changed elsewhere, or
        carries another delta, too.
    """
    if not deltas:
        return params
    _check_base(deltas[0].base, deltas, "Revert deltas of one base together")
    paths, leaves, treedef = tree.flatten(params)
    result = []
    for path, leaf in zip(paths, leaves, strict=True):
        flat = None
        for change in (d.leaves[path] for d in deltas if path in d.leaves):
            flat = np.array(leaf).reshape(-1) if flat is None else flat
            if len(change.indices) and int(change.indices[-1]) >= flat.size:
                raise ValueError(f"{path}: the delta is of a larger leaf than {np.shape(leaf)}.")
            flat[change.indices] = change.before
        result.append(leaf if flat is None else jnp.asarray(flat.reshape(np.shape(leaf))))
    reverted: Tree = treedef.unflatten(result)
    if (found := fingerprint(reverted)) != deltas[0].base:
        raise ValueError(
            f"expected the base with SHA-256 {deltas[0].base[:12]}... below these deltas, found "
            f"{found[:12]}.... Revert all deltas that were applied, before other changes."
        )
    return reverted


def _arrays(params: Params) -> dict[str, Any]:
    paths, leaves, _ = tree.flatten(tree.parameters(params))
    return {path: np.asarray(x) for path, x in zip(paths, leaves, strict=True)}


def _check_base(base: str, deltas: Sequence[Delta], advice: str) -> None:
    for number, one in enumerate(deltas, 1):
        if one.base != base:
            raise ValueError(
                f"delta {number} of {len(deltas)} was made from another base: expected SHA-256 "
                f"{base[:12]}..., found {one.base[:12]}.... {advice}."
            )
