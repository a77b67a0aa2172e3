"""Latent: what a method is made of whose weights follow from other variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from dst.core import checks
from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.allocation import Allocator, Global, allocator
from dst.rules.rule import Rule
from dst.rules.schedule import Cadence, Schedule
from dst.rules.structure import Structure, Unstructured


class View(NamedTuple):
    """What the functions of a latent method see of one leaf. Arrays have its shape.

    Attributes:
      latent: float32, what the optimizer trains.
      fixed: float32, what never changes; the latent variables where a method has no such thing.
      active: bool, the connections that the structure and the counts choose.
      wide: bool, the larger set that gradients reach; every weight where a method names none.
      grad: float32, the gradient with respect to the weights in use.
      softness: float32 scalar, 0 for hard masks.
    """

    latent: Array
    fixed: Array
    active: Array
    wide: Array
    grad: Array
    softness: Array


def unchanged(weight: Array, leaf: Leaf, key: Array) -> Array:
    """Latent variables that start as the weights."""
    return weight


def itself(view: View) -> Array:
    """The weight in use is the latent variable."""
    return view.latent


def straight_through(view: View) -> Array:
    """The gradient with respect to the weight in use, on active and inactive weights alike."""
    return view.grad


@dataclass(frozen=True)
class Latent:
    """A method whose parameters are ``weight(latent)``: exactly sparse, without forward hook.

    Every update: the gradient with respect to the weights in use becomes one for the latent
    variables, the wrapped optimizer moves those, connections are chosen from them, and the
    parameters are set to their new weights.

    Attributes:
      sparsity, allocation, structure: as in :class:`dst.Rule`.
      start: ``(weight, leaf, key) ->`` latent variables at initialisation.
      fix: ``(weight, leaf) ->`` variables that never change; None where there are none.
      score: of latent variables; the best are active.
      weight: of an active connection (of every one while the softness is positive).
      gradient: for the latent variables.
      remember: whether latent variables are kept from step to step; False: they are the
        parameters, so that inactive ones start every step at zero.
      wide: sparsity of the larger set that gradients reach; outside of it nothing moves and
        moments are zero. None: everything is reached.
      narrow_from: count from which the larger set is the active one; None: never.
      train_dense: whether leaves without mask are trained.
      cadence: when connections are chosen anew; None: in every step.
      stages, ramp: from the count ``stages[k]`` on, the share ``ramp(k + 1)`` of each layer's
        sparsity is due, and ``ramp(0)`` before; no stages: all of it, always.
      softness: schedule of the optimizer step: while it is positive all weights are in use, and
        ``weight`` sees it.
    """

    sparsity: float
    allocation: str | Allocator = "uniform"
    structure: Structure = Unstructured()
    start: Callable[[Array, Leaf, Array], Array] = unchanged
    fix: Callable[[Array, Leaf], Array] | None = None
    score: Callable[[Array], Array] = jnp.abs
    weight: Callable[[View], Array] = itself
    gradient: Callable[[View], Array] = straight_through
    remember: bool = True
    wide: float | None = None
    narrow_from: int | None = None
    train_dense: bool = True
    cadence: Cadence | None = None
    stages: tuple[int, ...] = ()
    ramp: Callable[[int], Any] | None = None
    softness: Schedule | None = None

    # What a loop may ask any rule.
    update_weights = True
    grow = None
    memory = None

    def __post_init__(self) -> None:
        self.table_rule()
        if isinstance(allocator(self.allocation), Global):
            raise ValueError(
                "a latent-weight method chooses its connections layer by layer, so the allocation "
                f"cannot be {self.allocation!r}. Use 'uniform' or 'erk'."
            )
        if self.wide is not None:
            checks.fraction("sparsity of the larger set", self.wide)
            if self.wide > self.sparsity:
                raise ValueError(
                    f"the set that gradients reach must not be sparser than the weights in use: "
                    f"got {self.wide} and {self.sparsity}. Lower the first."
                )

    def table_rule(self, sparsity: float | None = None) -> Rule:
        """The rule whose topology step k has the counts of stage k."""
        return Rule(
            sparsity=self.sparsity if sparsity is None else sparsity,
            allocation=self.allocation,
            structure=self.structure,
            grow=lambda leaf: leaf.weight,
            cadence=Cadence(0, 1, len(self.stages)),
            ramp=self._ramp,
        )

    @property
    def _ramp(self) -> Schedule | None:
        ramp = self.ramp
        return None if ramp is None else lambda k: ramp(max(k, 0))

    def fires(self, count: int) -> bool:
        """Whether the update after ``count`` updates is a topology step of a cadence."""
        return self.cadence is not None and self.cadence.fires(count)
