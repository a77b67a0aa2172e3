"""Groups of runs that differ in their seed only: what tells them apart, and figures over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from dst.report.collect import Trial
from dst.report.contents import number
from dst.report.words import worded
from dst.train.config.resume_overrides import FREE

SEED = "seed"
METHOD = "method.name"
SPARSITY = "method.sparsity"
LINES = 8  # lines that a reader can still tell apart by colour
LEAST = 3  # runs for an interval; with two it is 13 times as wide as their distance


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
      settings: what tells the group from others, by dotted key; a key may be absent.
      trials: its runs.
    """

    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]

    def values(self, name: str) -> np.ndarray:
        """A final figure of every run that has it."""
        values = (trial.figure(name) for trial in self.trials)
        return np.array([x for x in values if x is not None], dtype=float)

    def mean(self, name: str) -> float | None:
        """The mean of a figure over seeds; None where no run has it."""
        values = self.values(name)
        return float(values.mean()) if values.size else None

    def half(self, name: str) -> float | None:
        """Half the width of the 95 % t interval of the mean; None with fewer than three seeds."""
        values = self.values(name)
        if values.size < LEAST:
            return None
        error = values.std(ddof=1) / math.sqrt(values.size)
        return float(stdtrit(values.size - 1, 0.975) * error)

    def number(self, key: str) -> float | None:
        """A setting that is a number."""
        return number(self.settings.get(key))

    @property
    def method(self) -> str:
        """The name of the method in the config; empty where it is unknown."""
        return str(self.trials[0].settings.get(METHOD, ""))

    @property
    def dense(self) -> bool:
        """Whether its runs are dense."""
        return self.method == "dense"


@dataclass(frozen=True)
class Layout:
    """What is drawn where.

    Attributes:
      x: the key on the horizontal axis; None where no number varies.
      line: keys that tell lines apart.
      rest: keys of numbers that are neither.
    """

    x: str | None
    line: tuple[str, ...]
    rest: tuple[str, ...]


def varying(trials: Sequence[Trial]) -> list[str]:
    """Dotted keys that tell runs apart, without the seed; method and sparsity come first.

    Settings that cannot change the mathematics (names, devices, logging) are left out. So is a
    setting other than the sparsity that depends on the ``name`` in its section alone, and one that
    says what an earlier one says: it has the same values in all runs, or only some runs have it,
    all with one value, and an earlier one tells these from the others.
    """
    keys, settings = _differing(trials)
    varied = [key for key in keys if not _follows(key, keys, settings)]
    kept: list[str] = []
    for key in sorted(varied, key=lambda key: (key != METHOD, key != SPARSITY)):
        if not any(_repeats(key, before, settings) for before in kept):
            kept.append(key)
    return kept


def _repeats(key: str, before: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a setting says no more than an earlier one."""
    pairs = {(text_of(s, before), text_of(s, key)) for s in settings}
    if all(first == second for first, second in pairs):
        return True
    given = {second for _, second in pairs if second}
    absent = any(not second for _, second in pairs)
    return absent and len(given) == 1 and len({first for first, _ in pairs}) == len(pairs)


def following(trials: Sequence[Trial]) -> list[str]:
    """Dotted keys of all runs whose values depend on the ``name`` in their section alone."""
    keys, settings = _differing(trials)
    shared = [key for key in keys if all(key in x for x in settings)]
    return [key for key in shared if _follows(key, keys, settings)]


def _differing(trials: Sequence[Trial]) -> tuple[list[str], list[Mapping[str, Any]]]:
    known = [trial.settings for trial in trials if trial.settings]
    keys = dict.fromkeys(key for settings in known for key in settings if not _free(key))
    return [k for k in keys if k != SEED and len({text_of(s, k) for s in known}) > 1], known


def common(trials: Sequence[Trial]) -> dict[str, Any]:
    """Settings that all runs with a config share, by dotted key."""
    known = [trial.settings for trial in trials if trial.run and trial.settings]
    if not known:
        return {}
    return {k: v for k, v in known[0].items() if len({text_of(s, k) for s in known}) == 1}


def grouped(trials: Sequence[Trial], keys: Sequence[str]) -> list[Group]:
    """Groups of runs with the same values of these keys, in the order of their values."""
    members: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        members.setdefault(tuple(text_of(trial.settings, k) for k in keys), []).append(trial)
    groups = [
        Group({k: some[0].settings[k] for k in keys if k in some[0].settings}, tuple(some))
        for some in members.values()
    ]
    return sorted(groups, key=lambda group: [_order(group.settings, key) for key in keys])


def layout(groups: Sequence[Group], keys: Sequence[str], first: Sequence[str] = ()) -> Layout:
    """The horizontal axis is sparsity if it varies, else the number with the most values.

    The other keys tell lines apart, unless there would be too many lines.

    Args:
      groups: of runs.
      keys: that vary.
      first: keys that come first where several numbers have as many values.
    """
    values = {key: {x.number(key) for x in groups} - {None} for key in keys}
    numbers = [key for key in keys if len(values[key]) > 1]
    x = SPARSITY if SPARSITY in numbers else None
    if x is None and numbers:
        ranked = [*(key for key in first if key in numbers), *numbers]
        x = max(ranked, key=lambda key: len(values[key]))
    others = tuple(key for key in keys if key != x)
    if len({line_of(group, others) for group in groups}) <= LINES:
        return Layout(x, others, ())
    rest = tuple(key for key in others if key in numbers)
    return Layout(x, tuple(key for key in others if key not in rest), rest)


def line_of(group: Group, keys: Sequence[str]) -> tuple[str, ...]:
    """What a group shares with the others of its line."""
    return tuple(text_of(group.settings, key) for key in keys)


def short(key: str, keys: Sequence[str]) -> str:
    """A key in words, such as ``learning rate``; with its section where two keys are alike."""
    parts = key.split(".")
    last = parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]
    alike = [k for k in keys if k != key and k.split(".")[-1] == parts[-1] != "name"]
    return (" ".join(parts) if alike else last).replace("_", " ")


def described(settings: Mapping[str, Any], keys: Sequence[str], among: Sequence[str]) -> str:
    """Settings in words, ``rigl, drop fraction 0.3``; a text needs no name."""
    words = []
    for key in keys:
        value = settings.get(key)
        if isinstance(value, str):
            words.append(value)
        elif key in settings:
            words.append(f"{short(key, among)} {worded(value)}")
    return ", ".join(words)


def _free(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in FREE)


def text_of(settings: Mapping[str, Any], key: str) -> str:
    """A value that can be compared: 1 equals 1.0, and an absent value equals no other."""
    if key not in settings:
        return ""
    value = number(settings[key])
    return repr(value) if value is not None else json.dumps(settings[key], default=str)


def _order(settings: Mapping[str, Any], key: str) -> tuple[int, float, str]:
    value = number(settings.get(key))
    return (1, 0.0, text_of(settings, key)) if value is None else (0, value, "")


def _follows(key: str, keys: Sequence[str], known: Sequence[Mapping[str, Any]]) -> bool:
    name = f"{key.partition('.')[0]}.name"
    if name == key or name not in keys:
        return False
    if key == SPARSITY and all(key in settings for settings in known):
        return False
    pairs = {(text_of(settings, name), text_of(settings, key)) for settings in known}
    return len(pairs) == len({first for first, _ in pairs})
