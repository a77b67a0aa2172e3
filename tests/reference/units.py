"""Structures by plain loops: which weights form a unit, and which units form a group."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

import dst

Units = dict[Any, dict[Any, list[tuple[int, ...]]]]


def units(structure: Any, shape: tuple[int, ...], axes: str, stacked: int = 0) -> Units:
    """``{group: {unit: [index of weight, ...]}}``, units in the order of their first weight."""
    units: Units = defaultdict(lambda: defaultdict(list))
    letters = axes.split()
    for index in np.ndindex(*shape):
        stack, rest = index[:stacked], index[stacked:]
        i, o, k = (_position(name, rest, shape[stacked:], letters) for name in "iok")
        match structure:
            case dst.NM(_, m):
                group, unit = (stack, k, o, i // m), i % m
            case dst.Block(h, w):
                group, unit = stack, (k, i // h, o // w)
            case dst.BalancedBlock(h, w):
                group, unit = (stack, o // w), (k, i // h)
            case dst.ConstantFanIn():
                group, unit = (stack, o), (k, i)
            case dst.OutputChannel():
                group, unit = stack, o
            case dst.InputChannel():
                group, unit = stack, i
        units[group][unit].append(index)
    return units


def _position(name: str, index: Any, shape: Any, letters: list[str]) -> int:
    """The place along all axes of one letter, the last of them running fastest."""
    place = 0
    for at, length, letter in zip(index, shape, letters, strict=True):
        if letter == name:
            place = place * length + at
    return place


def best(scores: np.ndarray, groups: Units, keep: dict[Any, int], where: Any = None) -> np.ndarray:
    """The mask of the ``keep[group]`` units of largest summed score; ties to the first unit."""
    mask = np.zeros(scores.shape, bool)
    for group, members in groups.items():
        ranked = [
            (-sum(float(scores[w]) for w in weights), place, weights)
            for place, weights in enumerate(members.values())
            if where is None or where[weights[0]]
        ]
        for _, _, weights in sorted(ranked)[: keep[group]]:
            for w in weights:
                mask[w] = True
    return mask


def counts(mask: np.ndarray, groups: Units) -> dict[Any, int]:
    """Active units of every group; a unit that is half active is an error."""
    active = {}
    for group, members in groups.items():
        states = [{bool(mask[w]) for w in weights} for weights in members.values()]
        assert all(len(s) == 1 for s in states), "a unit is neither active nor inactive"
        active[group] = sum(s.pop() for s in states)
    return active
