"""Latent: the parts of a method whose weights are derived from other variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import lax

from dst.core import checks
from dst.core.reductions import exact_sum
from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.allocation import Allocator, Global, allocator
from dst.rules.layout import Layout
from dst.rules.schedule import Schedule, UpdateSchedule
from dst.rules.structure import Structure, Unstructured


class LatentLeaf(NamedTuple):
    """The inputs of the functions of a latent method: one leaf. Arrays have its shape.

    Attributes:
      latent: float32, what the optimizer trains; of another shape where ``start`` gives one.
      fixed: float32, variables that never change; the latent ones where a method has none.
      active: bool, the connections that the structure and the counts choose.
      backward: bool, the larger set that gradients reach; all weights where a method has no set.
      grad: float32, the gradient with respect to the weights in use.
      softness: float32 scalar, 0 for hard masks.
      scores: float32, trained beside the latent variables; these, where a method trains none.
      count: int32 scalar: of the updates before the weights are used.
      layout: how the structure reads the leaf.
      key: of the leaf and the count of updates, the same for the weights in use and the gradient
        that comes back for them; None where the method draws nothing.
    """

    latent: Array
    fixed: Array
    active: Array
    backward: Array
    grad: Array
    softness: Array
    scores: Array
    count: Array  # type: ignore[assignment]  # as in Optax's states
    layout: Layout
    key: Array | None = None


class TrainedScores(NamedTuple):
    """Scores that the wrapped optimizer trains beside the latent variables of a leaf.

    To the optimizer, the leaf is ``{"weight": latent variables, "scores": scores}``.

    Attributes:
      start: ``(weight, leaf, key) ->`` scores at initialisation, of as many axes as the weight.
      gradient: for the scores.
      project: what becomes of the scores after every step; None: they stay.
    """

    start: Callable[[Array, Leaf, Array], Array]
    gradient: Callable[[LatentLeaf], Array]
    project: Callable[[LatentLeaf], Array] | None = None


def unchanged(weight: Array, leaf: Leaf, key: Array) -> Array:
    """Latent variables that start as the weights."""
    return weight


def itself(leaf: LatentLeaf) -> Array:
    """The weight in use is the latent variable."""
    return leaf.latent


def size(leaf: LatentLeaf) -> Array:
    """The size of a latent variable."""
    return jnp.abs(leaf.latent)


def straight_through(leaf: LatentLeaf) -> Array:
    """The gradient with respect to the weight in use, on active and inactive weights alike."""
    return leaf.grad


def above_zero(scores: Array, layout: Layout) -> Array:
    """As many units per group as have a positive score. NaN counts, so that a layer whose scores
    are no numbers has too few candidates and stays as it was."""
    axes = tuple(a for a in range(scores.ndim) if a not in layout.group_axes)
    return jnp.sum(~(scores <= 0), axis=axes, dtype=jnp.int32)


def sum_like(x: Array, like: Array) -> Array:
    """Sums over the axes along which an array has one entry, bit-identical on every mesh."""
    axes = tuple(a for a, n in enumerate(like.shape) if n == 1)
    return lax.expand_dims(exact_sum(x, axes), axes)


@dataclass(frozen=True)
class Latent:
    """A method whose parameters are ``weight(latent)``: exactly sparse, without forward hook.

    Every update has four parts. The gradient with respect to the weights in use becomes one for
    the latent variables. The wrapped optimizer moves them. Connections are chosen by their scores.
    The parameters are set to the new weights.

    Attributes:
      sparsity, structure: as in :class:`dst.Rule`.
      allocation: as in :class:`dst.rules.rule.HowMany`; not one that ranks all layers together.
      start: ``(weight, leaf, key) ->`` latent variables at initialisation; of as many axes as the
        weight.
      fix: ``(weight, leaf) ->`` variables that never change, of the shape of the weight or one that
        broadcasts against it; None where there are none.
      scores: trained beside the latent variables; None where there are none. Not together with
        ``backward_sparsity``.
      score: of the shape of the weight; the best are active.
      counts: ``(scores per unit, layout) ->`` int32 active units per group, where training decides
        how many there are. ``sparsity`` then enters plans and estimates of costs alone. None: as
        many as the plan says.
      weight: of an active connection (of every one while the softness is positive).
      gradient: for the latent variables.
      keep_latent: whether latent variables are kept from step to step; False: they are the
        parameters, so that inactive ones start every step at zero.
      backward_sparsity: of the larger set that gradients reach, in [0, sparsity]. Outside of it
        nothing moves and moments are zero. None: gradients reach every weight.
      narrow_from: count from which the larger set is the active one; None: never.
      train_dense: whether leaves without mask are trained.
      when: steps at which connections are chosen; None: every step.
      stages, ramp: from the count ``stages[k]`` on, each layer has the share ``ramp(k + 1)`` of
        its sparsity, and ``ramp(0)`` before. Without stages it always has all of it.
      softness: schedule of the optimizer step that never rises, an input of ``weight``. While it
        is positive all weights are in use.
      draws: whether the functions draw random numbers, by the ``key`` of the leaf.
    """

    # A trainer reads this from rules of either kind.
    keeps_inactive_values: ClassVar[bool] = True

    sparsity: float
    structure: Structure = Unstructured()
    allocation: str | Allocator = "uniform"
    start: Callable[[Array, Leaf, Array], Array] = unchanged
    fix: Callable[[Array, Leaf], Array] | None = None
    scores: TrainedScores | None = None
    score: Callable[[LatentLeaf], Array] = size
    counts: Callable[[Array, Layout], Array] | None = None
    weight: Callable[[LatentLeaf], Array] = itself
    gradient: Callable[[LatentLeaf], Array] = straight_through
    keep_latent: bool = True
    backward_sparsity: float | None = None
    narrow_from: int | None = None
    train_dense: bool = True
    when: UpdateSchedule | None = None
    stages: tuple[int, ...] = ()
    ramp: Callable[[int], Any] | None = None
    softness: Schedule | None = None
    draws: bool = False

    def __post_init__(self) -> None:
        checks.fraction("sparsity", self.sparsity, below_one=True)
        if isinstance(allocator(self.allocation), Global):
            raise ValueError(
                "a latent-weight method chooses its connections layer by layer, so the allocation "
                f"cannot be {self.allocation!r}. Use 'uniform' or 'erk'."
            )
        if self.scores is not None and (self.backward_sparsity is not None or not self.keep_latent):
            raise ValueError(
                "trained scores need latent variables that are kept, and gradients that reach all "
                "of them. Leave backward_sparsity and keep_latent out."
            )
        if self.backward_sparsity is not None:
            checks.fraction("sparsity of the larger set", self.backward_sparsity)
            if self.backward_sparsity > self.sparsity:
                raise ValueError(
                    "the set that gradients reach must not be sparser than the weights in use: "
                    f"got {self.backward_sparsity} and {self.sparsity}. Lower the first."
                )

    @property
    def sparsity_changes(self) -> bool:
        """Whether the sparsity follows a schedule, whose end must be reached."""
        return bool(self.stages)

    def fires(self, count: int) -> bool:
        """Whether the update after ``count`` updates is a topology step of a schedule."""
        return self.when is not None and self.when.fires(count)
