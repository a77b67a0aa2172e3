"""EvoPress: an evolutionary search for the sparsity of every matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, NamedTuple

import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.oneshot.levels import Levels
from dst.oneshot.network import Network, divided, of_global

Fitness = Callable[[tuple[int, ...], Sequence[int]], float]

_TRIES = 100  # draws for every child that is wanted, before a generation makes do with fewer
_SHARE = 32  # the default step is this part of the mean matrix


class Generation(NamedTuple):
    """The parent that a generation leaves.

    Attributes:
      levels: of every matrix; their sum is zero.
      fitness: its loss on the batches of the last selection.
    """

    levels: tuple[int, ...]
    fitness: float


@named("evopress", allocation=True)
@dataclass(frozen=True)
class EvoPress:
    """Searches the sparsity of every matrix, with the number of all zeros fixed.

    A matrix at level ``l`` has ``l * step`` zeros more than its share, pruned by the method from
    the statistics of the dense network. The parent begins with all levels zero. A child is the
    parent after one to ``flips`` exchanges: one matrix goes down a level, another goes up. So every
    child has the same number of zeros. Children are judged by the loss in stages, each on batches
    of its own; the best of a stage enter the next one. The parent joins the last stage, and the
    best becomes the parent. Pass it as ``allocation=`` of :func:`dst.prune`, with ``loss``: the
    loss of the task, or :func:`dst.oneshot.divergence`.

    Args:
      generations: >= 1.
      offspring: children of a generation, >= 1.
      survivors: how many are left by each stage; the last is 1.
      batches: how many each stage looks at, of those of :func:`dst.prune`; None: all. Where the
        last stage looks at all, the parent's loss never rises.
      levels: largest level in both directions, >= 1.
      step: zeros between two levels; None: a 32nd part of the mean matrix, rounded up so that
        methods that prune output by output can meet it.
      flips: most exchanges of a child, >= 1; their number is the smaller of two draws.
      seed: of the draws.

    Raises:
      ValueError: counts that the method cannot meet, naming the matrix.

    Example:
      >>> fitness = lambda levels, batches: (levels[0] - 2) ** 2 + levels[1] ** 2
      >>> EvoPress(20).search(fitness, [-3] * 3, [3] * 3, batches=1)[-1].levels
      (2, 0, -2)

    References: Sieberling et al. 2025, "EvoPress: accurate dynamic model compression via
    evolutionary search" (arXiv 2410.14649).
    Checked against: IST-DASLab/EvoPress at 50888a01, evo_prune_search.py and src/pruner.py, by a
    problem with a known optimum and by both laws at every generation:
    tests/oneshot/test_evopress.py.
    Differs from its code: the network is then pruned with the sparsities that were found, each
    stage after the pruned ones before it; the code keeps the matrices of the search. Matrices of
    different sizes exchange equal numbers of weights. Defaults are those of its fast setting, in
    batches instead of tokens.
    """

    needs_loss: ClassVar[bool] = True

    generations: int = 400
    offspring: int = 16
    survivors: tuple[int, ...] = (1, 1)
    batches: tuple[int | None, ...] = (1, None)
    levels: int = 8
    step: int | None = None
    flips: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("generations", "offspring", "levels", "flips"):
            checks.integer(f"{name} of EvoPress", getattr(self, name), at_least=1)
        checks.integer("seed of EvoPress", self.seed, at_least=0)
        if self.step is not None:
            checks.integer("step of EvoPress", self.step, at_least=1)
        for n in (*self.survivors, *(n for n in self.batches if n is not None)):
            checks.integer("survivors and batches of EvoPress", n, at_least=1)
        if len(self.survivors) != len(self.batches) or not self.survivors or self.survivors[-1] > 1:
            raise ValueError(
                "survivors of EvoPress must have one entry per stage, as batches has, the last 1, "
                f"got {self.survivors} and {self.batches}."
            )

    def shares(self, network: Network) -> dict[str, Fraction]:
        """The sparsity of every matrix, by the search."""
        sizes = [piece.place.size for piece in network.pieces]
        zeros = divided(of_global(network.sparsity, sum(sizes)), sizes)
        step = self.step or default_step([piece.shape for piece in network.pieces])
        low = [-min(self.levels, z // step) for z in zeros]
        spare = [max(n - 1 - z, 0) for n, z in zip(sizes, zeros, strict=True)]
        high = [min(self.levels, x // step) for x in spare]
        found = Levels(network, zeros, step, low, high)
        best = self.search(found.loss, low, high, len(network.batches))[-1].levels
        return {
            piece.name: Fraction(z + level * step, n)
            for piece, n, z, level in zip(network.pieces, sizes, zeros, best, strict=True)
        }

    def search(
        self, fitness: Fitness, low: Sequence[int], high: Sequence[int], batches: int
    ) -> list[Generation]:
        """The parents of all generations, from the first: all levels zero.

        Args:
          fitness: of levels, on batches by their numbers; lower is better.
          low, high: range of the level of every matrix.
          batches: how many there are.

        Raises:
          ValueError: the parent's fitness is not finite.
        """
        random = np.random.default_rng(self.seed)
        parent = (0,) * len(low)
        everything = range(batches)
        first = fitness(parent, everything)
        if not math.isfinite(first):
            raise ValueError(
                f"loss: expected a finite value of the network at equal sparsities, found {first}. "
                "Check the batches, or lower the sparsity."
            )
        history = [Generation(parent, first)]
        for _ in range(self.generations):
            candidates = self._children(history[-1].levels, low, high, random)
            judged: list[Generation] = []
            for stage, (left, count) in enumerate(zip(self.survivors, self.batches, strict=True)):
                on = _drawn(random, count, batches)
                if stage + 1 == len(self.survivors):
                    candidates = [history[-1].levels, *candidates]
                judged = [self._judged(fitness, x, on, history[-1]) for x in candidates]
                judged = sorted(judged, key=lambda x: x.fitness)[:left]  # stable: parent first
                candidates = [x.levels for x in judged]
            history.append(judged[0])
        return history

    def _judged(
        self, fitness: Fitness, levels: tuple[int, ...], on: Sequence[int], parent: Generation
    ) -> Generation:
        whole = self.batches[-1] is None
        if whole and levels == parent.levels:  # judged on all batches when it became the parent
            return parent
        found = fitness(levels, on)
        return Generation(levels, found if math.isfinite(found) else math.inf)

    def _children(
        self,
        parent: tuple[int, ...],
        low: Sequence[int],
        high: Sequence[int],
        random: np.random.Generator,
    ) -> list[tuple[int, ...]]:
        """Distinct children within the range of levels."""
        children: dict[tuple[int, ...], None] = {}
        for _ in range(_TRIES * self.offspring):
            levels = list(parent)
            for _ in range(int(random.integers(1, self.flips + 1, 2).min())):
                down = [i for i, x in enumerate(levels) if x > low[i]]
                if not down:
                    break
                one = int(random.choice(down))
                up = [i for i, x in enumerate(levels) if x < high[i] and i != one]
                if not up:
                    break
                levels[one] -= 1
                levels[int(random.choice(up))] += 1
            child = tuple(levels)
            if child != parent:
                children[child] = None
            if len(children) == self.offspring:
                break
        return list(children)


def default_step(shapes: Sequence[tuple[int, ...]]) -> int:
    """A 32nd part of the mean matrix, rounded up to what all numbers of outputs divide.

    Where that is more than a quarter of the smallest matrix, it is not rounded.

    Args:
      shapes: ``(groups, inputs, outputs)`` of every matrix.
    """
    sizes = [math.prod(shape) for shape in shapes]
    step = max(sum(sizes) // len(sizes) // _SHARE, 1)
    common = math.lcm(*(groups * outputs for groups, _, outputs in shapes))
    rounded = -(-step // common) * common
    return rounded if 4 * rounded <= min(sizes) else step


def _drawn(random: np.random.Generator, count: int | None, batches: int) -> Sequence[int]:
    if count is None or count >= batches:
        return range(batches)
    return sorted(int(x) for x in random.choice(batches, count, replace=False))
