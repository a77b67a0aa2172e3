"""Rule: what a sparse training method is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dst.core import checks
from dst.core.typing import Array
from dst.rules import scores
from dst.rules.allocation import Allocator, allocator
from dst.rules.schedule import Cadence, Schedule, constant, exact
from dst.rules.structure import Structure, Unstructured

ROUNDINGS = ("floor", "ceil", "round")
REGROW = ("allow", "forbid")
REGROWN = ("keep", "zero")
COLD_STARTS = ("local_count", "off")
FORGET = ("grown", "all")
INITIAL = ("random", "magnitude")


class Seen(NamedTuple):
    """What a rule's memory observes of one leaf at every step.

    Attributes:
      grad: the raw (dense) gradient, float32.
      weight: float32; exactly 0 where inactive.
      active: the mask.
      left: int32 updates until the next topology step; 0 at one; 2^31 - 1 after the last.
    """

    grad: Array
    weight: Array
    active: Array
    left: Array


class Memory(NamedTuple):
    """What a rule remembers, per leaf.

    Attributes:
      init: from the weight (float32) to arrays of its shape, made from it so that they are
        sharded alike.
      observe: ``(memory, Seen) -> memory``, in every step, before a topology step looks at it.
      window: how many steps up to and with a topology step need the gradient of inactive
        weights; None: all steps do. What training costs follows from it.
    """

    init: Callable[[Array], Any]
    observe: Callable[[Any, Seen], Any]
    window: int | None = None


# From what is known at a topology step (dst.rules.counts.Due) to the int32 units per group that
# survive dropping and that are active afterwards, for every leaf.
Budget = Callable[[Any], list[tuple[Array, Array]]]


@dataclass(frozen=True)
class Rule:
    """One drop-and-grow rule, with every duration in optimizer steps.

    At a topology step, per group: of the ``n`` active units the best ``n - round(n * fraction)``
    by ``drop`` stay, never more than the target count; then the best of the others by ``grow``
    fill up to the target count. Grown weights start at zero with zero moments.

    Attributes:
      sparsity: global sparsity in [0, 1); 0 means that nothing is masked.
      allocation: ``"erk"``, ``"er"``, ``"uniform"`` or an allocator.
      first_allocation: of the sparsity at the start, where it is another one.
      structure: what is switched, and where counts are exact.
      drop: score by which active units stay.
      grow: score by which inactive units are activated; None: nothing grows.
      cadence: when; None: never (static).
      fraction: schedule of the optimizer step: share of active units that is dropped.
      ramp: schedule of the optimizer step: share, in [0, 1], of each layer's sparsity that is
        due. None: 1 throughout.
      rounding: of ``n * fraction``.
      regrow: whether a unit dropped at this step may grow back at the same step.
      regrown: the value of such a unit: ``"keep"`` its own, or ``"zero"`` (moments then too).
        Where a ramp lowers the target count, only those within the new count keep theirs: pruning
        comes first, and what it takes is gone (GraNet).
      update_weights: whether the other weights take an optimizer step at a topology step.
      cold_start: what young weights get under Adam-like optimizers, whose bias correction counts
        globally: ``"local_count"`` corrects by the age of the weight, a number of steps ``W``
        scales updates by ``min(age / W, 1)``, ``"off"`` leaves the up to 6.6-fold updates alone.
      low: schedule of the optimizer step: share of each layer's sparsity that dropping reaches;
        growth then returns to ``ramp``. Replaces ``fraction`` (MEST).
      forget: whose moments start at zero where connections are grown: those of the ``"grown"``
        weights, or of ``"all"`` weights (AC/DC, SPDF), none of which moves at that step then.
      memory: what the rule remembers from step to step, of the raw gradients.
      budget: replaces the count table where a method moves connections between layers or groups.
      initial: the connections to start with where :func:`dst.sparsify` is not told.
      keep: replaces ``drop`` and ``fraction`` where a paper's choice is no top-k: which weights
        stay, as a mask.
      masks: connections to start from, by leaf path; their counts replace the allocation.
    """

    sparsity: float
    allocation: str | Allocator = "erk"
    first_allocation: str | Allocator | None = None
    structure: Structure = Unstructured()
    drop: scores.Score = scores.magnitude
    grow: scores.Score | None = None
    cadence: Cadence | None = None
    fraction: Schedule = constant(0.0)
    ramp: Schedule | None = None
    rounding: str = "floor"
    regrow: str = "allow"
    regrown: str = "keep"
    update_weights: bool = True
    cold_start: str | int = "local_count"
    low: Schedule | None = None
    forget: str = "grown"
    memory: Memory | None = None
    budget: Budget | None = None
    initial: str = "random"
    keep: Callable[[scores.Connections], Array] | None = None
    masks: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        checks.fraction("sparsity", self.sparsity, below_one=True)
        allocator(self.allocation)
        if self.first_allocation is not None:
            allocator(self.first_allocation)
        checks.one_of("rounding", self.rounding, ROUNDINGS)
        checks.one_of("regrow", self.regrow, REGROW)
        checks.one_of("regrown", self.regrown, REGROWN)
        checks.one_of("forget", self.forget, FORGET)
        fixed = getattr(self.structure, "sparsity", None)
        if fixed is not None and exact(self.sparsity) != fixed:
            raise ValueError(
                f"sparsity must be {float(fixed):g}, the only one that {self.structure} has, got "
                f"{self.sparsity}. Change one of the two."
            )
        if isinstance(self.cold_start, str):
            checks.one_of("cold_start", self.cold_start, COLD_STARTS)
        else:
            checks.integer("cold_start", self.cold_start, at_least=1)

    def fires(self, count: int) -> bool:
        """Whether topology changes at the update that follows ``count`` updates."""
        return self.cadence is not None and self.cadence.fires(count)

    def exchanged(self, active: int, count: int) -> int:
        """Units of a group of ``active`` that are dropped at a step: ``round(active * fraction)``.

        The tolerance of 1e-6 keeps products that are whole numbers whole: 90 * 0.7 is 63.
        """
        share = float(self.fraction(count))
        checks.fraction(f"drop fraction at step {count}", share)
        product = active * share
        if self.rounding == "ceil":
            return min(active, math.ceil(product - 1e-6))
        if self.rounding == "round":
            return math.floor(product + 0.5 + 1e-6)
        return math.floor(product + 1e-6)


def fires(method: Any, count: int, steps: int | None = None) -> bool:
    """Whether a method changes topology at the update that follows ``count`` updates.

    Args:
      method: anything with ``rule(steps) -> Rule``.
      count: optimizer updates done.
      steps: length of training, where the method's durations are percentages.
    """
    return method.rule(steps).fires(count)
