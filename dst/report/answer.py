"""What a report of many runs answers, in sentences with their uncertainty.

Methods are compared at equal sparsity, other settings at equal values of the rest. A difference
counts if its 95 % interval over seeds excludes zero, and if it is more than one test example.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dst.report.comparison import Comparison, published
from dst.report.contrast import Contrast, Effect, contrast, fitted
from dst.report.groups import METHOD, SPARSITY, Group, described, short
from dst.report.words import figure, joined, worded

_LARGE = 0.02  # differences up to this, absolute or relative, may be called equal
_LEVEL = "level"
_CHANCE = 0.05


def answer(comparison: Comparison) -> list[str]:
    """The sentences, the most telling first."""
    known = comparison.sparse
    if not known:
        return ["There is no answer yet, because no run has ended."]
    if len(known) == 1 and not comparison.dense:
        return [_single(comparison, known[0])]
    words = _Words(comparison)
    others = [key for key in comparison.keys if key not in (METHOD, SPARSITY)]
    others = [key for key in others if len({x.settings.get(key, "") for x in _plain(known)}) > 1]
    methods = _methods(comparison, words) if len({x.method for x in known}) > 1 else None
    rest = _settings(comparison, words, others) if others else None
    sparsity = _sparsities(comparison, words)
    found = [text for text in (methods, rest, sparsity) if text]
    return [_sentence(text) for text in found] or ["The runs share no setting to compare."]


@dataclass(frozen=True)
class _Verdict:
    """Levels from the best to the worst; ``tied`` are those not clearly behind the first."""

    contrast: Contrast
    order: list[int]
    tied: list[int]

    @property
    def behind(self) -> list[int]:
        return [i for i in self.order if i not in self.tied]

    @property
    def within(self) -> float:
        """How far apart the tied levels are at most."""
        return max(self.contrast.within(self.tied[0], i) for i in self.tied[-1:])


class _Words:
    """Differences of the figure of a comparison, in words."""

    def __init__(self, comparison: Comparison):
        self._figure = comparison.figure
        labels = comparison.test_labels
        self.least = 1 / labels if labels and self._figure.share else 0.0
        means = [abs(x.mean(comparison.name) or 0.0) for x in comparison.ended()]
        self._large = _LARGE if self._figure.share else _LARGE * max(means)
        self._noted: set[str] = set()

    def verdict(self, found: Contrast) -> _Verdict:
        sign = -1 if self._figure.best is max else 1
        order = sorted(range(len(found.levels)), key=lambda i: sign * found.means[i])
        tied = [i for i in order if not found.clear(order[0], i, self.least)]
        return _Verdict(found, order, tied)

    def points(self, value: float, *, unit: bool = True) -> str:
        if self._figure.share:
            return f"{100 * value:.1f}{' points' if unit else ''}".replace("-", "−")
        return f"{value:.3f}".replace("-", "−")

    def bound(self, value: float, *, unit: bool = True) -> str:
        """A difference, rounded up."""
        return self.points(math.ceil(1000 * max(value, self.least) - 1e-3) / 1000, unit=unit)

    def ahead(self, found: Contrast, i: int, j: int) -> str:
        """``10.7 points above``: of the better level."""
        above = found.means[i] > found.means[j]
        text = self.points(abs(float(found.means[i] - found.means[j])))
        return f"{text} {'above' if above else 'below'}"

    def evidence(self, found: Contrast, i: int, j: int) -> str:
        """The interval of a difference in brackets, with the number of runs where it is new."""
        note = self._note(found)
        if found.half is not None:
            distance = abs(float(found.means[i] - found.means[j]))
            low, high = (self.points(distance + x, unit=False) for x in (-found.half, found.half))
            note = ", ".join(x for x in (f"95 % interval {low} to {high}", note) if x)
        return f" ({note})" if note else ""

    def number(self, found: Contrast) -> str:
        """The number of runs in brackets, where it is new."""
        note = self._note(found)
        return f" ({note})" if note else ""

    def _note(self, found: Contrast) -> str:
        if found.half is None:
            text = "2 seeds: not enough for an interval"
            text = text if found.n > 1 else "one seed: no interval"
        elif found.values is None:
            text = f"{found.n} seeds each"
        else:
            text = f"{found.n} {'paired seeds' if found.unit == 'seed' else 'paired settings'}"
        new = text not in self._noted
        self._noted.add(text)
        return text if new else ""

    def equal(self, verdict: _Verdict) -> bool:
        """Whether nothing is behind, and all are so close that they may be called equal."""
        return not verdict.behind and verdict.within <= max(self._large, self.least)

    def mean(self, value: float | None) -> str:
        return figure(value, self._figure.share)


def _plain(groups: Sequence[Group]) -> Iterator[Group]:
    for group in groups:
        yield Group({k: worded(v) for k, v in group.settings.items()}, group.trials)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _percents(values: Sequence[float]) -> str:
    """``80, 90 and 98 %``."""
    return f"{joined([f'{100 * x:.4g}' for x in sorted(values)])} %"


def _single(comparison: Comparison, group: Group) -> str:
    share, values = comparison.figure.share, group.values(comparison.name)
    start = f"{comparison.title} is {figure(group.mean(comparison.name), share)}"
    if (half := group.half(comparison.name)) is not None:
        low, high = (figure(float(values.mean()) + x, share) for x in (-half, half))
        return f"{start} (mean of {values.size} seeds, 95 % interval {low} to {high})."
    if values.size > 1:
        return f"{start} (mean of {values.size} seeds: not enough for an interval)."
    return f"{start} (one run: no interval)."


def _methods(comparison: Comparison, words: _Words) -> str:
    """Methods against each other at every sparsity; the clear differences first."""
    known = comparison.sparse
    places = sorted({x.number(SPARSITY) for x in known} - {None}, reverse=True)  # type: ignore[type-var]
    clear, unclear = [], []
    equal: dict[tuple[str, ...], list] = {}
    for place in places or [None]:
        there = [x for x in known if place is None or x.number(SPARSITY) == place]
        there = [Group({METHOD: x.method, **x.settings}, x.trials) for x in there]
        found = contrast(there, METHOD, comparison.name)
        if found is None:
            continue
        verdict = words.verdict(found)
        if verdict.behind:
            clear.append((place, verdict))
        elif words.equal(verdict):
            equal.setdefault(tuple(sorted(found.levels)), []).append((place, verdict))
        else:
            unclear.append((place, verdict))
    parts = [f"{_at([place])}{_lead(words, verdict)}" for place, verdict in clear]
    for names, some in equal.items():
        within = words.bound(max(v.within for _, v in some))
        again = "they" if len(names) == 2 else "all"
        subject = again if parts else joined([published(str(x)) for x in names])
        note = "".join(words.number(v.contrast) for _, v in some)
        at = _at([place for place, _ in some])
        parts.append(f"{at}{subject} are equal within {within}{note}")
    for place, verdict in unclear:
        parts.append(f"{_at([place])}{_unclear(words, verdict)}")
    return "; ".join(parts)


def _at(places: Sequence[float | None]) -> str:
    known = [x for x in places if x is not None]
    return f"at {_percents(known)} sparsity " if known else ""


def _lead(words: _Words, verdict: _Verdict) -> str:
    found, first = verdict.contrast, verdict.order[0]
    names = [published(str(x)) for x in found.levels]
    leads = [
        f"{words.ahead(found, first, i)} {names[i]}{words.evidence(found, first, i)}"
        for i in verdict.behind
    ]
    text = f"{names[first]} is {joined(leads)}"
    if verdict.tied[1:]:
        within = words.bound(verdict.within)
        others = joined([names[i] for i in verdict.tied[1:]])
        text += f", and not clearly ahead of {others} (within {within})"
    return text


def _unclear(words: _Words, verdict: _Verdict) -> str:
    found, (first, last) = verdict.contrast, (verdict.order[0], verdict.order[-1])
    names = [published(worded(x)) for x in found.levels]
    ahead = f"{names[first]} {words.ahead(found, first, last)} {names[last]}"
    return f"no difference is clear: {ahead}{words.evidence(found, first, last)}"


def _settings(comparison: Comparison, words: _Words, keys: Sequence[str]) -> str:
    """Which of the other settings matters, and by how much."""
    found = {key: contrast(comparison.sparse, key, comparison.name) for key in keys}
    verdicts = {key: words.verdict(x) for key, x in found.items() if x is not None}
    if not verdicts:
        varied = [key for key in comparison.keys if len(_values(comparison.sparse, key)) > 1]
        return _fit(comparison, words, fitted(comparison.sparse, varied, comparison.name))
    by_size = sorted(verdicts.items(), key=lambda x: -_distance(x[1]))
    clear = [
        f"{short(key, comparison.keys)} {worded(v.contrast.levels[v.order[0]])} is "
        f"{words.ahead(v.contrast, v.order[0], v.order[-1])} "
        f"{worded(v.contrast.levels[v.order[-1]])}"
        f"{words.evidence(v.contrast, v.order[0], v.order[-1])}"
        for key, v in by_size
        if v.behind
    ]
    same = [
        f"within {words.bound(v.within)} at all values of {short(key, comparison.keys)}"
        f"{words.number(v.contrast)}"
        for key, v in by_size
        if not v.behind
    ]
    equal = f"{comparison.figure.words} is equal {joined(same)}"
    if clear:
        return "; ".join([*clear, *([equal] if same else [])])
    cells = _cells(comparison, words)
    if cells:
        return f"{cells}; on average over other settings, {equal}"
    return f"no setting differs from another by more than the noise: {equal}"


def _cells(comparison: Comparison, words: _Words) -> str:
    """The best and the worst combination, where they differ clearly."""
    every = [Group({_LEVEL: i}, x.trials) for i, x in enumerate(comparison.sparse)]
    found = contrast(every, _LEVEL, comparison.name)
    if found is None or found.half is None or not (verdict := words.verdict(found)).behind:
        return ""
    first, last = verdict.order[0], verdict.order[-1]
    names = [described(x.settings, comparison.keys, comparison.keys) for x in comparison.sparse]
    ahead = f"{names[first]} is {words.ahead(found, first, last)} {names[last]}"
    return f"{ahead}{words.evidence(found, first, last)}"


def _fit(comparison: Comparison, words: _Words, effects: Sequence[Effect]) -> str:
    """Settings that were drawn at random."""
    if not effects:
        return "there are too few runs to tell the settings apart"
    what = comparison.figure.words
    clear, rest = [], []
    for x in effects:
        chance = "p < 0.001" if x.p < 0.001 else f"p = {x.p:.2g}"
        chance = chance.replace(" ", "\N{NO-BREAK SPACE}")  # one line
        name = short(x.key, comparison.keys)
        if x.p < _CHANCE and x.size > words.least:
            best, size = published(worded(x.best)), words.points(x.size)
            clear.append(f"{what} changes by {size} with {name}, best at {best} ({chance})")
        else:
            rest.append(f"{name} ({chance})")
    if rest:
        clear.append(f"no effect of {joined(rest)} is clear")
    return f"in a quadratic fit to {len(comparison.sparse)} settings, {'; '.join(clear)}"


def _distance(verdict: _Verdict) -> float:
    means = verdict.contrast.means
    return abs(float(means[verdict.order[0]] - means[verdict.order[-1]]))


def _values(groups: Sequence[Group], key: str) -> set[Any]:
    return {worded(x.settings[key]) for x in groups if key in x.settings}


def _sparsities(comparison: Comparison, words: _Words) -> str:
    """The best method against dense at every sparsity, or against its own least sparsity."""
    known, dense = comparison.sparse, comparison.dense
    places = sorted({x.number(SPARSITY) for x in known} - {None})  # type: ignore[type-var]
    if len({x.method for x in known}) > 1:
        if not dense:
            return ""
        there = [x for x in known if not places or x.number(SPARSITY) == places[-1]]
        best = comparison.figure.best(there, key=lambda x: x.mean(comparison.name))
        known = [x for x in known if x.method == best.method]
    levels = [(x, [y for y in known if y.number(SPARSITY) == x]) for x in places]
    name = published(known[0].method) or "the network"
    if not dense:
        if len(levels) < 2:
            return ""
        (least, base), *levels = levels
        those = Group({_LEVEL: 0}, _trials(base))
        reference = f"{_percents([least or 0.0])} sparsity"
    else:
        those = Group({_LEVEL: 0}, _trials(dense))
        reference = f"dense ({words.mean(those.mean(comparison.name))})"
        levels = levels or [(None, known)]
    parts: list[str] = []
    equal = []
    for place, some in reversed(levels):
        found = contrast([those, Group({_LEVEL: 1}, _trials(some))], _LEVEL, comparison.name)
        if found is None:
            continue
        verdict = words.verdict(found)
        if words.equal(verdict):
            equal.append((place, verdict))
            continue
        subject = "it" if parts else name
        is_ = f"{_at([place])}{subject} is {words.ahead(found, 1, 0)}"
        is_ = is_ if verdict.behind else f"{is_}, not clearly"
        behind = "" if parts else f" {reference}"
        parts.append(f"{is_}{behind}{words.evidence(found, 1, 0)}")
    if equal:
        within = words.bound(max(v.within for _, v in equal))
        note = "".join(words.number(v.contrast) for _, v in equal)
        subject = "it is equal" if parts else f"{name} is equal to {reference}"
        parts.append(f"{_at([x for x, _ in equal])}{subject} within {within}{note}")
    return "; ".join(parts)


def _trials(groups: Sequence[Group]) -> tuple:
    return tuple(trial for group in groups for trial in group.trials)
