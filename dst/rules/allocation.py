"""From one global sparsity to a sparsity per layer, in exact fractions on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import SupportsFloat

from dst.core import checks
from dst.core.patterns import matches
from dst.core.text import shown
from dst.rules import scores
from dst.rules.schedule import exact


@dataclass(frozen=True)
class Layer:
    """The inputs of an allocation: one leaf.

    Attributes:
      shape: ``(*window, inputs, outputs)`` of one layer, several axes merged to one each.
      layers: how many layers of this shape the leaf stacks.
      sparsity: fixed by an override, in [0, 1); the layer is then outside the budget.
    """

    shape: tuple[int, ...]
    layers: int = 1
    sparsity: float | None = None

    @property
    def size(self) -> int:
        """Weights of one layer."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Allocation:
    """Sparsity per leaf.

    Attributes:
      sparsity: exact fractions by leaf path.
      epsilon: the common factor of ER and ERK; None for others.
      saturated: paths that ER or ERK leaves dense, because their share exceeds their size.
      before: number of weights before a leaf, where layers share one budget. Counts are differences
        of the cumulative budget, so that they add up to it exactly.
    """

    sparsity: Mapping[str, Fraction]
    epsilon: Fraction | None = None
    saturated: tuple[str, ...] = field(default=())
    before: Mapping[str, int] = field(default_factory=dict)


Allocator = Callable[[Mapping[str, Layer], float], Allocation]


def zeros(size: int, sparsity: SupportsFloat) -> int:
    """Inactive weights of a layer: ``floor(sparsity * size)``, in exact arithmetic.

    >>> zeros(90, 0.7)
    63
    """
    share = exact(sparsity)
    return share.numerator * size // share.denominator


@dataclass(frozen=True)
class Uniform:
    """The same sparsity in every layer.

    Args:
      dense: pattern or patterns of layers that stay dense (the first convolution, in the uniform
        runs of RigL's paper). None: no layer does.
      compensate: whether the others become sparser, so that the whole has the global sparsity
        (SRigL's code); RigL's code does not compensate.

    Checked against: google-research/rigl at d39fc7d, rigl/sparse_utils.py (get_sparsities_uniform);
    calgaryml/condensed-sparsity at 3052bb8, src/rigl_torch (compensation);
    tests/rules/test_allocation.py::test_uniform_without_compensation_misses_the_global_sparsity.
    """

    dense: str | tuple[str, ...] | None = None
    compensate: bool = False

    def __call__(self, layers: Mapping[str, Layer], sparsity: float) -> Allocation:
        share, dense = exact(sparsity), self._dense(layers)
        if self.compensate:
            budget = [p for p, x in layers.items() if x.sparsity is None]
            total = sum(layers[p].size * layers[p].layers for p in budget)
            kept = sum(layers[p].size * layers[p].layers for p in budget if p in dense)
            if total > kept:
                share = share * total / (total - kept)
            if share >= 1:
                raise ValueError(
                    f"allocation: with {sorted(dense)} dense, a global sparsity of {sparsity} "
                    f"would leave the other layers empty. Lower the sparsity or do not compensate."
                )
        return Allocation(
            {
                p: Fraction(0) if p in dense else share if x.sparsity is None else exact(x.sparsity)
                for p, x in layers.items()
            }
        )

    def _dense(self, layers: Mapping[str, Layer]) -> set[str]:
        patterns = (self.dense,) if isinstance(self.dense, str) else self.dense or ()
        for pattern in patterns:
            if not any(matches(pattern, path) for path in layers):
                raise ValueError(
                    f"allocation: pattern {shown(pattern)} matches no sparse layer."
                    f"{checks.nearest(pattern, layers)} The layers are: {', '.join(layers)}."
                )
        return {path for path in layers if any(matches(x, path) for x in patterns)}


@dataclass(frozen=True)
class ErdosRenyi:
    """Density proportional to ``(sum of dimensions / product of dimensions) ** power``.

    A layer whose share would exceed its size becomes dense. The others share the rest of the
    budget. Layers that tie become dense together.

    Args:
      kernel: whether the window of convolutions takes part (ERK) or not (ER).
      power: 1 is the published rule, 0 is uniform.

    Checked against: google-research/rigl at d39fc7d, rigl/sparse_utils.py
    (get_sparsities_erdos_renyi) and the ResNet-50 tables of README.md;
    tests/rules/test_allocation.py::test_erk_on_resnet_50.
    References: SET (arXiv 1707.04780), RigL (arXiv 1911.11134, section 3).
    """

    kernel: bool = True
    power: float = 1.0

    def __call__(self, layers: Mapping[str, Layer], sparsity: float) -> Allocation:
        share = exact(sparsity)
        raw = {p: self._raw(x.shape) for p, x in layers.items() if x.sparsity is None}
        dense: list[str] = []
        epsilon = Fraction(0)
        while open_ := [p for p in raw if p not in dense]:
            budget = Fraction(0)
            for p in raw:
                x = layers[p]
                active = x.size if p in dense else 0
                budget += x.layers * (x.size - math.floor(share * x.size) - active)
            weight = sum(raw[p] * layers[p].size * layers[p].layers for p in open_)
            epsilon = budget / weight
            largest = max(raw[p] for p in open_)
            if largest * epsilon <= 1:
                break
            dense += [p for p in open_ if raw[p] == largest]
        per_layer = {}
        for p, x in layers.items():
            if x.sparsity is not None:
                per_layer[p] = exact(x.sparsity)
            else:
                per_layer[p] = Fraction(0) if p in dense else 1 - epsilon * raw[p]
        return Allocation(per_layer, epsilon, tuple(dense))

    def _raw(self, shape: tuple[int, ...]) -> Fraction:
        dims = shape if self.kernel else shape[-2:]
        raw = Fraction(sum(dims), math.prod(dims))
        return raw if self.power == 1 else Fraction(float(raw) ** self.power)


@dataclass(frozen=True)
class Global:
    """All layers share one budget, for which their weights compete at every topology step.

    Sparsity per layer is then an outcome. The ``min_active`` best units of each layer stay
    active, so no layer becomes empty.

    Args:
      score: what competes, of :data:`dst.rules.scores.COMPARABLE`: ``magnitude``, ``lamp``,
        ``saliency`` or ``signed_saliency``.
      min_active: units that every layer (every stacked slice of it) keeps, at least 1.

    Checked against: the definition, on two layers by hand:
    tests/methods/test_goldens.py::test_four_of_seven_weights_of_two_layers.
    Differs from JaxPruner (jaxpruner/algorithms/global_pruners.py at f133ee5), which normalises
    the weights of each layer first.
    """

    score: str = "magnitude"
    min_active: int = 1

    def __post_init__(self) -> None:
        checks.one_of("score of a global allocation", self.score, scores.COMPARABLE)
        checks.integer("min_active of a global allocation", self.min_active, at_least=1)

    def __call__(self, layers: Mapping[str, Layer], sparsity: float) -> Allocation:
        fixed = [p for p, x in layers.items() if x.sparsity is not None]
        if fixed:
            raise ValueError(
                f"a global allocation has no sparsity per layer, but {fixed} have one of their "
                "own. Leave them dense (sparsity 0), or use 'erk' or 'uniform'."
            )
        before, total = {}, 0
        for p, x in layers.items():
            before[p] = total
            total += x.size * x.layers
        return Allocation({p: exact(sparsity) for p in layers}, before=before)


ALLOCATIONS: dict[str, Allocator] = {
    "uniform": Uniform(),
    "er": ErdosRenyi(kernel=False),
    "erk": ErdosRenyi(),
    "global": Global(),
    "lamp": Global("lamp"),
}


def allocator(allocation: str | Allocator) -> Allocator:
    """The allocator with this name; an allocator is returned unchanged.

    Raises:
      ValueError: an unknown name.
    """
    if callable(allocation):
        return allocation
    checks.one_of("allocation", allocation, ALLOCATIONS)
    return ALLOCATIONS[allocation]
