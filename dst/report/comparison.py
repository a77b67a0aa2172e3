"""What a report of many runs compares: groups of runs, and the look of each in all figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dst.methods import METHODS
from dst.report import groups, theme
from dst.report.contents import number
from dst.report.groups import METHOD, SPARSITY, Group, Layout
from dst.report.words import worded
from dst.train.objectives.figures import Figure


@dataclass(frozen=True)
class Look:
    """Colour (a stand-in) and dash pattern of a line."""

    colour: str
    dash: int = 0


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, and how they are drawn.

    Attributes:
      groups: of runs that differ in their seed only; a group without an ended run is not drawn.
      keys: settings that tell them apart.
      layout: what is drawn where.
      name, figure: by which they are compared.
    """

    groups: Sequence[Group]
    keys: Sequence[str]
    layout: Layout
    name: str
    figure: Figure

    def lines(self) -> dict[str, list[Group]]:
        """Groups by what the legend calls their line."""
        lines: dict[str, list[Group]] = {}
        for group in self.groups:
            lines.setdefault(self.label(group), []).append(group)
        return lines

    def label(self, group: Group) -> str:
        """What the legend calls the line of a group."""
        return groups.described(group.settings, self.layout.line, self.keys) or "all runs"

    def ended(self) -> list[Group]:
        """Groups with a figure."""
        return [group for group in self.groups if group.values(self.name).size]

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Colour and dash pattern by label, the same in all figures.

        Where methods are compared, each has its colour, and other settings have dash patterns.
        Dense runs have the colour of text.
        """
        lines = {label: some[0] for label, some in self.lines().items()}
        methods = [x.method for x in lines.values() if not x.dense]
        by_method = len(set(methods)) > 1
        hues: dict[object, int] = {}
        dashes: dict[object, int] = {}
        looks = {}
        for label, group in lines.items():
            rest = [key for key in self.layout.line if not (by_method and key == METHOD)]
            rest = [groups.text_of(group.settings, key) for key in rest]
            if group.dense and len(set(methods)) > 0:
                looks[label] = Look(theme.INK, 1)
            elif by_method:
                hue = hues.setdefault(group.method, len(hues))
                dash = dashes.setdefault(tuple(rest), len(dashes))
                looks[label] = Look(theme.colour(hue), dash)
            else:
                hue = hues.setdefault(label, len(hues))
                looks[label] = Look(theme.colour(hue), hue // len(theme.SERIES))
        return looks

    def look(self, group: Group) -> Look:
        """Colour and dash pattern of a group's line."""
        return self.looks[self.label(group)]

    @property
    def dense(self) -> list[Group]:
        """The groups that are the dense baseline of the others."""
        if all(group.dense for group in self.groups):
            return []
        return [group for group in self.ended() if group.dense]

    @property
    def sparse(self) -> list[Group]:
        """The groups that are compared: all that have a figure, without the dense baseline."""
        baseline = self.dense
        return [group for group in self.ended() if group not in baseline]

    @property
    def test_labels(self) -> int | None:
        """Over how many test labels each figure is a mean; None where runs differ or are silent."""
        runs = [x.run for group in self.ended() for x in group.trials if x.run and x.done]
        found = {number(run.summary.get("test_labels")) for run in runs}
        only = found.pop() if len(found) == 1 else None
        return int(only) if only else None

    @property
    def title(self) -> str:
        """The figure's name for a heading."""
        return f"Test {self.figure.words}"

    @property
    def x_words(self) -> str:
        """The name of the horizontal axis."""
        return groups.short(self.layout.x, self.keys) if self.layout.x else ""

    def x_value(self, at: float) -> str:
        """A value on the horizontal axis, in words."""
        return f"{100 * at:.4g} %" if self.layout.x == SPARSITY else worded(at)


def published(name: str) -> str:
    """A method's published name, which is that of its class; a preset as configured."""
    return METHODS[name].__name__ if name in METHODS else name
