"""The dense network, as allocations see it that look at calibration data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from typing import Any, ClassVar, Protocol, runtime_checkable

from dst.core.typing import Batch
from dst.oneshot.calibrate import Walk, Where
from dst.oneshot.leaves import Leaves
from dst.oneshot.loss import Objective
from dst.oneshot.matrix import OneShot
from dst.oneshot.stages import Piece, StagePlan
from dst.oneshot.statistics import Needs
from dst.rules.schedule import exact


@dataclass(frozen=True)
class Network:
    """A dense network, its calibration data, and how it is to be pruned.

    Attributes:
      plan: the stages of its forward pass.
      leaves: its weights, and what prunes a matrix.
      batches: of calibration data.
      sparsity: of all matrices together.
      method: by which they are pruned.
      objective: the loss; None where it was not given.
      where, offload: of :func:`dst.prune`.
    """

    plan: StagePlan
    leaves: Leaves
    batches: Sequence[Batch]
    sparsity: float
    method: OneShot
    objective: Objective | None
    where: Where | None
    offload: bool

    @property
    def pieces(self) -> list[Piece]:
        """All matrices, in the order of the forward pass."""
        return [piece for stage in self.plan.stages for piece in stage.pieces]

    @property
    def loss(self) -> Objective:
        """The loss.

        Raises:
          ValueError: it was not given.
        """
        if self.objective is None:
            raise ValueError("loss: expected loss(params, batch), found none. Give loss=.")
        return self.objective

    def walk(self, needs: Needs) -> Walk:
        """The forward pass over all batches, stage by stage, from its beginning."""
        arrays = list(self.leaves.leaves)
        return Walk(self.plan, arrays, self.batches, needs, self.where, self.offload)

    def live_walk(self) -> Walk:
        """The forward pass with the weights that :attr:`leaves` have when a stage runs."""
        arrays, needs = self.leaves.leaves, self.method.needs
        return Walk(self.plan, arrays, self.batches, needs, self.where, self.offload)


@runtime_checkable
class DataAllocator(Protocol):
    """What an allocation must provide that looks at calibration data.

    Attributes:
      needs_loss: whether it reads the loss.
    """

    needs_loss: ClassVar[bool]

    def shares(self, network: Network) -> Mapping[str, Fraction]:
        """The sparsity of every matrix, by its name."""
        ...


def needs_loss(method: Any) -> bool:
    """Whether a one-shot method, or one that it is made of, reads the loss."""
    return any(getattr(x, "needs_loss", False) for x in made_of(method))


def needs_gradients(method: Any) -> bool:
    """Whether a one-shot method, or one that it is made of, reads norms of gradients."""
    return any(
        getattr(x, "needs_loss", False) and not getattr(x, "needs_curvature", False)
        for x in made_of(method)
    )


def made_of(method: Any) -> Iterator[Any]:
    """A one-shot method, and those that are fields of it."""
    yield method
    for x in fields(method) if is_dataclass(method) else ():
        if isinstance(getattr(method, x.name), OneShot):
            yield from made_of(getattr(method, x.name))


def block_of(name: str, block: Callable[[str], str] | None = None) -> str:
    """The block of the network to which a matrix belongs.

    Args:
      name: of the matrix.
      block: from the name; None: the path up to its first number, such as ``blocks/3``, and of a
        leaf that stacks layers ``blocks[3]``.
    """
    if block is not None:
        return block(name)
    row = re.search(r"\[(\d+)\]", name)
    if row is not None:  # a slice of a leaf that stacks the layers
        return f"{name.partition('/')[0]}[{row[1]}]"
    found = re.match(r".*?\d+(?=/|$)", name)
    return found[0] if found else name


def divided(zeros: int, sizes: Sequence[int]) -> list[int]:
    """Zeros per matrix by size: whole numbers whose sum is ``zeros``.

    >>> divided(5, [3, 3, 4])
    [1, 2, 2]
    """
    total, before, result = sum(sizes), 0, []
    for size in sizes:
        after = before + size
        result.append(zeros * after // total - zeros * before // total)
        before = after
    return result


def of_global(sparsity: float, total: int) -> int:
    """Zeros of all matrices together: ``floor(sparsity * total)``, in exact arithmetic."""
    share = exact(sparsity)
    return share.numerator * total // share.denominator
