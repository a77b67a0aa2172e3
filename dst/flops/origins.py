"""Where a value of a forward pass comes from, and the cost of the operations on its way."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

PRODUCT, LOOKUP, ELEMENTWISE = "product", "lookup", "elementwise"


@dataclass(frozen=True)
class Plain:
    """A value without parameters: ``data`` depends on the input, ``zero`` is zero everywhere."""

    kind: str


@dataclass(frozen=True)
class Weights:
    """A value whose elements are weights of leaves, zeros where these are zero.

    Attributes:
      shares: leaf path and the share of the value's elements that are of this leaf.
      looked_up: rows that data has chosen. They are data, as embeddings are, until they meet
        other data in a product, as the kernels of chosen experts do.
    """

    shares: tuple[tuple[str, Fraction], ...]
    looked_up: bool = False


@dataclass(frozen=True)
class Computed:
    """A value of parameters alone in which their zeros are lost.

    Attributes:
      paths: of the leaves.
      by: the operation that lost them.
    """

    paths: frozenset[str]
    by: str


Origin = Plain | Weights | Computed
DATA, CONSTANT, ZERO = Plain("data"), Plain("constant"), Plain("zero")


@dataclass
class Tally:
    """What a program costs.

    Attributes:
      macs, outputs, channels: multiply-adds, output elements and output features of the products
        that consume a leaf, by path; fractions where leaves were joined before.
      free: multiply-adds that no parameter's zeros save: between activations, or with values
        computed from parameters.
      uses: the ways in which each leaf is consumed.
      notes: what the figures leave open.
    """

    macs: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    outputs: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    channels: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    free: Fraction = Fraction(0)
    uses: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    notes: set[str] = field(default_factory=set)

    @property
    def total(self) -> Fraction:
        """All multiply-adds."""
        return self.free + sum(self.macs.values(), Fraction(0))

    def add(self, other: Tally, times: int | Fraction = 1) -> None:
        """Adds what a part costs that runs ``times`` times."""
        for name in ("macs", "outputs", "channels"):
            mine = getattr(self, name)
            for path, n in getattr(other, name).items():
                mine[path] += n * times
        self.free += other.free * times
        self.remember(other)

    def remember(self, other: Tally) -> None:
        """Takes over uses and notes, not the cost."""
        for path, uses in other.uses.items():
            self.uses[path] |= uses
        self.notes |= other.notes

    def use(self, origin: Origin, how: str) -> None:
        """Remembers that the leaves of a value are consumed in some way."""
        for path in paths_of(origin):
            self.uses[path].add(how)


def paths_of(origin: Origin) -> frozenset[str]:
    """The leaves that a value depends on; data depends on none."""
    if isinstance(origin, Weights):
        return frozenset(path for path, _ in origin.shares)
    return origin.paths if isinstance(origin, Computed) else frozenset()


def is_data(origin: Origin) -> bool:
    """Whether a value depends on the input."""
    return origin == DATA or (isinstance(origin, Weights) and origin.looked_up)
