"""Rule: the parts of a drop-and-grow method, grouped by question.

*When* does topology change? *How many* connections change, and *which* ones? What is *reset*
where they change? From what does training *start*?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dst.core import checks
from dst.core.typing import Array, ArrayLike
from dst.rules import scores
from dst.rules.accumulators import Accumulator
from dst.rules.allocation import Allocator, allocator
from dst.rules.derivatives import Derivative
from dst.rules.fields import ColdStart, Regrow, RegrowValue, Rounding
from dst.rules.schedule import Schedule, UpdateSchedule, constant, exact
from dst.rules.structure import Structure, Unstructured

INITIAL = ("random", "magnitude")
MOMENTS = ("changed", "grown", "all")

# Takes dst.rules.counts.TopologyInputs. Returns int32 units per group for every leaf: those that
# survive dropping, and those that are active afterwards.
Counts = Callable[[Any], list[tuple[Array, Array]]]


@dataclass(frozen=True)
class HowMany:
    """How many connections there are, and how many change.

    Attributes:
      allocation: ``"erk"``, ``"er"``, ``"uniform"`` or an allocator.
      fraction: schedule of the optimizer step: share of active units that is dropped, in [0, 1].
      rounding: of ``n * fraction``.
      ramp: schedule of the optimizer step: share, in [0, 1], of each layer's final sparsity that
        is reached. None: 1 throughout.
      drop_to: schedule of the optimizer step: share of each layer's sparsity that dropping
        reaches; growth then returns to ``ramp``. Replaces ``fraction`` (MEST).
      counts: replaces the table of counts, where a method moves connections between layers or
        groups.
    """

    allocation: str | Allocator = "erk"
    fraction: Schedule = constant(0.0)
    rounding: Rounding = "floor"
    ramp: Schedule | None = None
    drop_to: Schedule | None = None
    counts: Counts | None = None

    def __post_init__(self) -> None:
        allocator(self.allocation)
        checks.one_of("rounding", self.rounding, ("floor", "ceil", "round"))

    def exchanged(self, active: np.ndarray | int, share: np.ndarray | float) -> np.ndarray:
        """int32 units of groups of ``active`` that are dropped at a share: ``active * share``.

        The tolerance of the rounding is 1e-6, so that 90 * 0.7 is 63.
        """
        product = np.float64(active) * share
        if self.rounding == "ceil":
            return np.minimum(active, np.ceil(product - 1e-6)).astype(np.int32)
        half = 0.5 if self.rounding == "round" else 0.0
        return np.floor(product + half + 1e-6).astype(np.int32)


@dataclass(frozen=True)
class Which:
    """Which connections stay, and which are grown.

    Attributes:
      drop: score by which active units stay.
      grow: score by which inactive units are activated; None: nothing grows.
      keep: returns which weights stay, as a mask. It replaces ``drop`` and the drop fraction
        where a paper's choice is no top-k.
      regrow: whether a unit dropped at this step may grow back at the same step.
      accumulator: sums up raw gradients over steps for the scores.
      derivative: what ``update`` takes as ``grads`` at a topology step, where that is not the
        gradient of the loss; see :meth:`dst.SparseTransformation.topology_gradients`.
    """

    drop: scores.Score = scores.magnitude
    grow: scores.Score | None = None
    keep: Callable[[scores.Connections], Array] | None = None
    regrow: Regrow = "allow"
    accumulator: Accumulator | None = None
    derivative: Derivative | None = None

    def __post_init__(self) -> None:
        checks.one_of("regrow", self.regrow, ("allow", "forbid"))


@dataclass(frozen=True)
class Reset:
    """What starts from zero where connections change.

    Attributes:
      regrow_value: of a unit that is dropped and grows back at one step: ``"keep"`` its own, or
        ``"zero"`` (moments then too). Where a ramp lowers the target count, pruning comes first:
        only units within the new count keep their value (GraNet).
      moments: which optimizer moments a topology step sets to zero, in every slot of the weight's
        shape. ``"changed"``: those of inactive and of grown weights. ``"grown"``: of grown weights
        alone; moments of dropped ones decay (RigL's TF1 code). ``"all"``: of inactive weights, and
        of all weights where anything grows (AC/DC, SPDF); no weight of that leaf moves then.
      update_weights: whether the other weights take an optimizer step at a topology step.
      cold_start: updates of recently grown weights under Adam-like optimizers, whose bias
        correction counts globally. ``"local_count"`` corrects by the age of the weight. A number
        of steps ``W`` does too, and scales updates by ``min(age / W, 1)`` under any optimizer.
        ``"off"`` changes nothing: updates are up to 6.6 times too large.
      grown_value: of grown weights: ``"zero"``, or ``"accumulated"``: what the rule's accumulator
        holds for them.
    """

    regrow_value: RegrowValue = "keep"
    moments: Literal["changed", "grown", "all"] = "changed"
    update_weights: bool = True
    cold_start: ColdStart = "local_count"
    grown_value: Literal["zero", "accumulated"] = "zero"

    def __post_init__(self) -> None:
        checks.one_of("regrow_value", self.regrow_value, ("keep", "zero"))
        checks.one_of("moments", self.moments, MOMENTS)
        checks.one_of("grown_value", self.grown_value, ("zero", "accumulated"))
        if isinstance(self.cold_start, str):
            checks.one_of("cold_start", self.cold_start, ("local_count", "off"))
        else:
            checks.integer("cold_start", self.cold_start, at_least=1)


@dataclass(frozen=True)
class Start:
    """What training starts from.

    Attributes:
      connections: ``"random"``, or those of largest ``"magnitude"``; used where
        :func:`dst.sparsify` gets no ``initial``.
      masks: bool arrays by leaf path; their counts replace the allocation.
      allocation: of the sparsity at the start, where it is another one than later.
    """

    connections: Literal["random", "magnitude"] = "random"
    masks: Mapping[str, ArrayLike] | None = None
    allocation: str | Allocator | None = None

    def __post_init__(self) -> None:
        checks.one_of("initial", self.connections, INITIAL)
        if self.allocation is not None:
            allocator(self.allocation)


@dataclass(frozen=True)
class Rule:
    """One drop-and-grow rule, with every duration in optimizer steps.

    A topology step has two parts, per group. Of the ``n`` active units the best
    ``n - round(n * fraction)`` by ``drop`` stay, never more than the target count. Then the best
    other units by ``grow`` fill up to the target count. Grown weights start at zero with zero
    moments, and moments of dropped weights become zero.

    Attributes:
      sparsity: global sparsity in [0, 1); 0 means that nothing is masked.
      structure: the unit that is switched, and the group in which counts are exact.
      when: topology steps; None: never (static).
      how_many: connections per layer, over time and at a topology step.
      which: connections that are dropped and grown.
      reset: values, moments and update sizes where connections change.
      start: connections at the start.
    """

    keeps_inactive_values: ClassVar[bool] = False  # dropped weights become zero

    sparsity: float
    structure: Structure = Unstructured()
    when: UpdateSchedule | None = None
    how_many: HowMany = HowMany()
    which: Which = Which()
    reset: Reset = Reset()
    start: Start = Start()

    def __post_init__(self) -> None:
        checks.fraction("sparsity", self.sparsity, below_one=True)
        fixed = getattr(self.structure, "sparsity", None)
        if fixed is not None and exact(self.sparsity) != fixed:
            raise ValueError(
                f"sparsity must be {float(fixed):g}, the only one that {self.structure} has, got "
                f"{self.sparsity}. Change one of the two."
            )

    @property
    def sparsity_changes(self) -> bool:
        """Whether the sparsity follows a schedule, whose end must be reached."""
        return self.how_many.ramp is not None

    def fires(self, count: int) -> bool:
        """Whether topology changes at the update that follows ``count`` updates."""
        return self.when is not None and self.when.fires(count)

    def exchanged(self, active: int, count: int) -> int:
        """Units of a group of ``active`` that are dropped at a step: ``round(active * fraction)``.

        Raises:
          ValueError: a fraction outside of [0, 1].
        """
        share = float(self.how_many.fraction(count))
        checks.fraction(f"drop fraction at step {count}", share)
        return int(self.how_many.exchanged(active, share))
