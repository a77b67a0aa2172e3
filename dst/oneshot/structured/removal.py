"""Which units a network loses: the smaller network, and the masked one that it equals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from dst.core import tree
from dst.core.text import aligned, shown
from dst.core.typing import Params, Tree
from dst.oneshot.structured.groups import Group, Groups, Member

_Axis = tuple[int | None, int]  # a row of a leaf, or None; and an axis of it


@dataclass(frozen=True)
class Removal:
    """Which units a network loses; printed, it is a table.

    Attributes:
      groups: of the units.
      kept: bool ``[units]`` by the name of the group.
      scores: float ``[units]`` by the name of the group; empty where the caller chose.
      shifts: what is added to biases first, by leaf path and row (None: the whole leaf).
    """

    groups: Groups
    kept: Mapping[str, np.ndarray]
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    shifts: Mapping[tuple[str, int | None], np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for group in self.groups:
            _check_kept(group, self.kept)

    def __str__(self) -> str:
        rows = [("group", "units", "kept")]
        rows += [(x.name, str(x.units), str(int(self.kept[x.name].sum()))) for x in self.groups]
        return "\n".join(aligned(rows))

    def smaller(self, params: Tree) -> Tree:
        """The parameters of the smaller network; arrays are new, on the default device.

        Raises:
          ValueError: another tree, or rows of one leaf that would keep different numbers.
        """
        return self._changed(params, _cut)

    def masked(self, params: Tree) -> Tree:
        """The same network at its full size: all weights of removed units are zero."""
        return self._changed(params, _zeroed)

    def _changed(
        self, params: Tree, change: Callable[[str, np.ndarray, dict[_Axis, np.ndarray]], Any]
    ) -> Tree:
        paths, leaves, treedef = tree.flatten(params)
        arrays = dict(zip(paths, leaves, strict=True))
        kept = self._kept_positions(arrays)
        for (path, row), shift in self.shifts.items():
            if path not in arrays:
                raise ValueError(
                    f"expected parameters with {path}, to which FLAP adds, found none. Take those "
                    "of the model with biases."
                )
            arrays[path] = _shifted(np.asarray(arrays[path]), row, shift)
        for path, axes in kept.items():
            arrays[path] = jnp.asarray(change(path, np.asarray(arrays[path]), axes))
        return treedef.unflatten([jnp.asarray(arrays[p]) for p in paths])

    def _kept_positions(self, arrays: Mapping[str, Any]) -> dict[str, dict[_Axis, np.ndarray]]:
        """Which positions of which axes stay, by leaf path."""
        found: dict[str, dict[_Axis, np.ndarray]] = {}
        for group in self.groups:
            for x in group.members:
                size = _length(x, arrays, group)
                axes = found.setdefault(x.path, {})
                stays = axes.setdefault((x.row, x.axis), np.ones(size, bool))
                stays[x.positions[~self.kept[group.name]].reshape(-1)] = False
        return found


def check_members(groups: Groups, params: Params) -> None:
    """Raises unless all members of groups are in the parameters."""
    arrays = dict(zip(*tree.flatten(params)[:2], strict=True))
    for group in groups:
        for member in group.members:
            _length(member, arrays, group)


def _length(member: Member, arrays: Mapping[str, Any], group: Group) -> int:
    leaf = arrays.get(member.path)
    shape = () if leaf is None else np.shape(leaf)[member.row is not None :]
    if member.axis >= len(shape) or int(member.positions.max()) >= shape[member.axis]:
        raise ValueError(
            f"group {group.name}: expected {member.name} with at least "
            f"{int(member.positions.max()) + 1} positions on axis {member.axis}, found shape "
            f"{shape}. Find the groups of these parameters with dst.channel_groups."
        )
    return int(shape[member.axis])


def _check_kept(group: Group, kept: Mapping[str, np.ndarray]) -> None:
    """Raises unless a group has a bool per unit, some of them True, equally many in each run."""
    found = kept.get(group.name)
    if found is None or np.shape(found) != (group.units,) or np.asarray(found).dtype != bool:
        raise ValueError(
            f"{group.name}: expected bool of shape ({group.units},), which of its units are kept, "
            f"got {shown(found)}."
        )
    counts = np.asarray(found).reshape(group.runs, -1).sum(1)
    if counts.min() != counts.max():
        raise ValueError(
            f"{group.name}: expected equally many of each of its {group.runs} runs of "
            f"{group.units // group.runs} units, got {counts.tolist()}."
        )
    if not counts.max():
        raise ValueError(f"{group.name}: expected at least one unit that is kept, got none.")


def _cut(path: str, array: np.ndarray, axes: dict[_Axis, np.ndarray]) -> np.ndarray:
    rows = {row for row, _ in axes}
    if rows == {None}:
        for (_, axis), stays in axes.items():
            array = np.compress(stays, array, axis)
        return array
    cut = list(array)
    for (row, axis), stays in axes.items():
        assert row is not None
        cut[row] = np.compress(stays, cut[row], axis)
    if len({x.shape for x in cut}) > 1:
        sizes = [list(x.shape) for x in cut]
        raise ValueError(
            f"{path}: its layers are rows of one array and must keep equally many units, got "
            f"{sizes}. Remove the same fraction of every layer."
        )
    return np.stack(cut)


def _zeroed(path: str, array: np.ndarray, axes: dict[_Axis, np.ndarray]) -> np.ndarray:
    array = array.copy()
    for (row, axis), stays in axes.items():
        part = array if row is None else array[row]
        np.moveaxis(part, axis, 0)[~stays] = 0
    return array


def _shifted(array: np.ndarray, row: int | None, shift: np.ndarray) -> np.ndarray:
    array = array.copy()
    part = array if row is None else array[row]
    part += shift.reshape(part.shape).astype(array.dtype)
    return array
