"""What second-order methods share: work in blocks, and weights of all matrices that compete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, TypeGuard

import jax
import jax.numpy as jnp

from dst.core.text import shown
from dst.core.typing import Array, Batch
from dst.oneshot.curvature import Curvature, Fisher, from_blocks, given, in_blocks
from dst.oneshot.leaves import Leaves
from dst.oneshot.loss import Objective
from dst.oneshot.matrix import Matrix
from dst.oneshot.network import DataAllocator, made_of, of_global
from dst.oneshot.solve import dampened, precise
from dst.oneshot.stages import Piece
from dst.oneshot.statistics import Needs
from dst.oneshot.surgery import Blocks
from dst.rules.allocation import Allocator, Global, allocator
from dst.rules.counts import best_of_all
from dst.rules.layout import Layout

Scope = Literal["global", "layer"]
SCOPES = ("global", "layer")

_NUMBERS = 2**25  # of all blocks that are factorised at once
_RELATIVE = 1e-6  # to the largest number of the diagonal, a dampening after one that failed

Function = Callable[..., tuple[Array, Array]]

_best = jax.jit(best_of_all, static_argnames=("layouts", "min_active"))


class SecondOrder(Protocol):
    """A one-shot method that reads blocks of the curvature of the loss.

    Attributes:
      needs: ``nothing`` of the inputs.
      needs_curvature: True.
      scope: ``global``: the weights of all matrices compete; ``layer``: those of each matrix.
    """

    needs: ClassVar[Needs]
    needs_curvature: ClassVar[bool]

    @property
    def scope(self) -> Scope: ...

    def scores(self, matrix: Matrix) -> Array:
        """float32 of the shape of the weight: what removing each weight costs."""
        ...

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """New weights and the mask."""
        ...


def needs_curvature(method: Any) -> bool:
    """Whether a one-shot method, or one that it is made of, reads blocks of curvature."""
    return any(getattr(x, "needs_curvature", False) for x in made_of(method))


def curvature_of(
    method: Any,
    objective: Objective | None,
    leaves: Sequence[Array],
    batches: Sequence[Batch],
    pieces: Sequence[Piece],
    say: Callable[[str], None],
) -> Callable[[Piece], Curvature] | None:
    """What gives every piece its curvature: the loss, or a diagonal of the user's own."""
    diagonal = getattr(method, "diagonal", None)
    if getattr(method, "needs_curvature", False) and diagonal is not None:
        return partial(given, diagonal)
    if objective is None or not needs_curvature(method):
        return None
    return Fisher(objective, leaves, batches, pieces, say).of


def block_size(size: int, multiple: int) -> int:
    """Weights of a block: a multiple of a pattern's."""
    return max(size - size % multiple, multiple)


def by_blocks(
    function: Function,
    matrix: Matrix,
    size: int,
    dampening: float,
    memory: float,
    keep: Array | None = None,
) -> Array:
    """A function of :mod:`dst.oneshot.surgery` at all blocks of a matrix.

    Args:
      function: of blocks, dampening and, where given, the weights that stay.
      matrix: with its curvature.
      size: weights of a block; of a smaller matrix, all.
      dampening: the first. Where no factor is found it grows, to 1e-6 of the largest number of the
        diagonal or ten times as large, and twice more by ten.
      memory: GiB of curvature at once.
      keep: bool of the shape of the weight.

    Returns:
      float32 of the shape of the weight.

    Raises:
      ValueError: a curvature that has no factor with any of them.
    """
    alive = matrix.weight != 0 if matrix.preserve else jnp.ones(matrix.weight.shape, bool)
    own = min(size, matrix.weight.size)
    rows = [in_blocks(x, own) for x in (matrix.weight, alive, keep) if x is not None]
    results = []
    for first, curvature in matrix.curvature_of_loss.blocks(size, memory):
        most = max(_NUMBERS // own**2, 1)
        for start in range(0, len(curvature), most):
            part = curvature[start : start + most]
            here = [x[first + start : first + start + len(part)] for x in rows]
            results.append(_solved(function, part, here, dampening, matrix.name))
    return from_blocks(jnp.concatenate(results), matrix.shape)


def _solved(
    function: Function, curvature: Array, rows: Sequence[Array], dampening: float, name: str
) -> Array:
    with precise() as dtype:
        weight, alive, *keep = rows
        blocks = Blocks(weight.astype(dtype), curvature.astype(dtype), alive)

        def attempt(value: float) -> tuple[Array, Array]:
            return function(blocks, jnp.asarray(value, dtype), *keep)

        return dampened(
            attempt,
            dampening,
            name,
            "curvature of the loss",
            "Raise the dampening, or take more batches.",
            lambda: _RELATIVE * float(jnp.max(jnp.diagonal(curvature, axis1=1, axis2=2))),
        )


def check_structure(matrix: Matrix, method: str, known: tuple[type, ...]) -> None:
    """Raises ValueError where a method does not prune in a structure."""
    if not isinstance(matrix.structure, known):
        names = ", ".join(x.__name__ for x in known)
        raise ValueError(
            f"{matrix.name}: {method} prunes in the structures {names}, got {matrix.structure}."
        )
    matrix.layout()  # raises where the sizes do not fit


def best(method: SecondOrder, matrix: Matrix) -> Array:
    """The mask that was chosen as matrices competed, or that of the highest scores."""
    mask = matrix.best(method.scores(matrix)) if matrix.chosen is None else matrix.chosen
    return mask & (matrix.weight != 0) if matrix.preserve else mask


def competes(method: Any, allocation: str | Allocator | DataAllocator) -> TypeGuard[SecondOrder]:
    """Whether the weights of all matrices compete.

    Raises:
      ValueError: an allocation beside it.
    """
    own = getattr(method, "needs_curvature", False)
    if not own or getattr(method, "scope", "layer") != "global":
        return False
    if not isinstance(allocation, DataAllocator):
        if allocation == "uniform" or allocator(allocation) == Global():
            return True
    name = type(method).__name__
    raise ValueError(
        f"allocation: {name}(scope='global') lets all matrices compete, got {shown(allocation)} "
        f"beside it. Use {name}(scope='layer')."
    )


def compete(run: Leaves, method: SecondOrder, pieces: Sequence[Piece], sparsity: float) -> None:
    """Chooses the weights of all matrices that stay, into ``run.chosen``.

    Every matrix keeps a unit. Matrices with a sparsity of their own do not compete.

    Raises:
      ValueError: a structure that fixes counts, or units of several sizes, naming the matrix.
    """
    pieces = [x for x in pieces if run.own[x.base.path] is None]
    if not pieces:
        return
    layouts: list[Layout] = []
    pooled, alive = [], []
    for piece in pieces:
        matrix = run.matrix(piece, None)
        layout = matrix.layout()
        if len(layout.groups) > len(layout.counts) or layout.unit_size != (
            layouts[0].unit_size if layouts else layout.unit_size
        ):
            raise ValueError(
                f"{piece.name}: scope='global' lets units of all matrices compete, but "
                f"{matrix.structure} fixes their number or has units of several sizes. Use "
                "scope='layer'."
            )
        layouts.append(layout)
        pooled.append(layout.pool(method.scores(matrix)))
        alive.append(
            layout.units_of(matrix.weight != 0)
            if matrix.preserve
            else jnp.ones(pooled[-1].shape, bool)
        )
    units = sum(x.size for x in pooled)
    keep = units - of_global(sparsity, units)
    best = _best(pooled, layouts=tuple(layouts), k=keep, min_active=1, among=alive)
    for piece, layout, mask in zip(pieces, layouts, best, strict=True):
        run.chosen[piece.name] = layout.spread(mask)
