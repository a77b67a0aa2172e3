"""The leaves and the masks of a tree while its matrices are pruned, one after the other."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core import tree
from dst.core.text import shown
from dst.core.tree import Leaf
from dst.core.typing import Array, Params, PyTree, Tree
from dst.engine.build_plan import own_sparsity
from dst.engine.initial_masks import placed_like
from dst.oneshot.calibrate import written
from dst.oneshot.curvature import Curvature
from dst.oneshot.finished import Pruned, Solved, digest
from dst.oneshot.loss import Gradients, as_numbers
from dst.oneshot.matrix import Matrix, OneShot
from dst.oneshot.stages import Piece
from dst.oneshot.statistics import Statistics
from dst.oneshot.views import Base, Place
from dst.rules.allocation import Allocator, Global, Layer, allocator
from dst.rules.structure import Structure, structure_of


@dataclass(frozen=True)
class Progress:
    """What ``progress`` of :func:`dst.prune` gets after every stage.

    Attributes:
      stage: its number, from 0.
      stages: how many there are.
      matrices: of this stage; none while something is computed before it.
      doing: what that is: ``gradients, pass 1 of 2: 30 of 128``.
    """

    stage: int
    stages: int
    matrices: tuple[Pruned, ...]
    doing: str = ""


class Leaves:
    """The leaves and masks while matrices are pruned.

    Args:
      params: pytree of arrays.
      method: by which matrices are pruned.
      structure: of leaves without one of their own.
      chosen: the leaves to prune, by path.
      preserve: whether weights that are zero stay zero.

    Attributes:
      paths, leaves: of the tree; chosen leaves are replaced as their matrices are pruned.
      own: the sparsity that overrides or a pattern give to a chosen leaf, or None.
      sparsities: of every piece, by its name.
      gradients: of the loss, by leaf path; empty where the method reads none.
      curvature: of the loss at a piece; None where the method reads none.
      chosen: masks of pieces that were chosen beforehand, as matrices compete.
    """

    def __init__(
        self,
        params: Params,
        method: OneShot,
        structure: Structure,
        chosen: Mapping[str, Leaf],
        preserve: bool,
    ):
        self.paths, leaves, self._treedef = tree.flatten(params)
        self.leaves = [
            jnp.asarray(x) if p in chosen else x for p, x in zip(self.paths, leaves, strict=True)
        ]
        self._method, self._preserve = method, preserve
        self._structures = {p: structure_of(x, structure) for p, x in chosen.items()}
        self.own = {p: own_sparsity(x, self._structures[p]) for p, x in chosen.items()}
        self._masks = {p: jnp.zeros(x.shape, bool) for p, x in chosen.items()}
        self.sparsities: Mapping[str, Fraction] = {}
        self.gradients: Mapping[str, Gradients] = {}
        self.curvature: Callable[[Piece], Curvature] | None = None
        self.chosen: dict[str, Array] = {}
        self._copied: set[int] = set()

    def allocated(
        self, allocation: str | Allocator, sparsity: float, pieces: Sequence[Piece]
    ) -> dict[str, Fraction]:
        """The sparsity of every piece, from the shapes of the leaves."""
        allocate = allocator(allocation)
        if isinstance(allocate, Global):
            raise ValueError(
                f"allocation {shown(allocation)}: {type(self._method).__name__} prunes one matrix "
                "after the other, so layers cannot compete. Use 'uniform', 'erk', dst.OWL() or "
                "dst.Magnitude()."
            )
        layers: dict[str, Layer] = {}
        for piece in pieces:
            path, (groups, *shape) = piece.base.path, piece.shape
            before = layers[path].layers if path in layers else 0
            layers[path] = Layer(tuple(shape), before + groups, self.own[path])
        shares = allocate(layers, sparsity).sparsity
        return {piece.name: shares[piece.base.path] for piece in pieces}

    def matrix(
        self, piece: Piece, statistics: Statistics | None, sparsity: Fraction | None = None
    ) -> Matrix:
        """What the method sees; arguments as for :meth:`solve`."""
        leaf = self.leaves[piece.base.leaf]
        return Matrix(
            piece.name,
            piece.place.matrices(piece.base.read(leaf)).astype(jnp.float32),
            statistics,
            self.sparsities[piece.name] if sparsity is None else sparsity,
            self._structures[piece.base.path],
            self._preserve,
            self._gradients(piece),
            None if self.curvature is None else self.curvature(piece),
            self.chosen.get(piece.name),
        )

    def solve(
        self, piece: Piece, statistics: Statistics | None, sparsity: Fraction | None = None
    ) -> Solved:
        """Prunes one piece; the weights have the type of the leaf.

        Args:
          piece: with what :attr:`leaves` hold.
          statistics: of its inputs.
          sparsity: None: what :attr:`sparsities` say.
        """
        start, leaf = time.perf_counter(), self.leaves[piece.base.leaf]
        matrix = self.matrix(piece, statistics, sparsity)
        dense = matrix.weight
        solved, mask = self._method(matrix)
        if solved.shape != dense.shape or mask.shape != dense.shape:
            raise ValueError(
                f"{piece.name}: {type(self._method).__name__} must return weights and a mask of "
                f"shape {dense.shape}, got {solved.shape} and {mask.shape}."
            )
        error = _error(dense, solved, statistics)
        zero = 1 - float(jnp.mean(mask, dtype=jnp.float32))
        pruned = Pruned(piece.name, zero, error, time.perf_counter() - start)
        return Solved(solved.astype(leaf.dtype), mask, pruned)

    def _gradients(self, piece: Piece) -> Gradients | None:
        found = self.gradients.get(piece.base.path)
        if found is None:
            return None
        count, *arrays = found
        return Gradients(count, *(piece.place.matrices(piece.base.read(x)) for x in arrays))

    def put(self, piece: Piece, solved: Solved) -> Pruned:
        """Replaces the leaf and the mask of a piece."""
        base = piece.base
        if base.row is not None and base.leaf not in self._copied:
            self._copied.add(base.leaf)  # rows are written in place, which must not be the user's
            self.leaves[base.leaf] = jnp.array(self.leaves[base.leaf])
        self.leaves[base.leaf] = written(self.leaves[base.leaf], piece, solved.weight)
        self._masks[base.path] = written(self._masks[base.path], piece, solved.mask)
        return solved.pruned

    def identity(self, plan: str, entered: PyTree, loss: float | None = None) -> dict[str, str]:
        """What this pruning is made of, as text; equal text means equal results.

        Args:
          plan: of its stages, as text.
          entered: what enters the first stage, for all batches.
          loss: at a batch, which tells losses apart; None where they do not matter.
        """
        structures = {path: repr(x) for path, x in self._structures.items()}
        text = f"{plan}{dict(self.sparsities)}{structures}{self._preserve}"
        reads = {"gradients": digest([as_numbers(x) for x in self.gradients.values()])}
        choice = {"masks chosen": digest(self.chosen)}
        return {
            **(reads if self.gradients else {}),
            **(choice if self.chosen else {}),
            **({} if loss is None else {"loss": repr(loss)}),
            "method": repr(self._method),
            "plan": hashlib.sha256(text.encode()).hexdigest(),
            "weights": digest(self.leaves),
            "batches": digest(entered),
        }

    def result(self, params: Tree) -> tuple[Tree, dict[str, Array]]:
        """The parameters and masks, placed as the parameters were."""
        before = tree.flatten(params)[1]
        leaves = [
            placed_like(new, old) if p in self._masks else old
            for p, new, old in zip(self.paths, self.leaves, before, strict=True)
        ]
        of = dict(zip(self.paths, before, strict=True))
        masks = {p: placed_like(mask, of[p]) for p, mask in self._masks.items()}
        return self._treedef.unflatten(leaves), masks


def _error(weight: Array, solved: Array, statistics: Statistics | None) -> float | None:
    if statistics is None or statistics.gram is None:
        return None
    lost, whole = (
        jnp.einsum("gio,gij,gjo->", w, statistics.gram, w, precision=lax.Precision.HIGHEST)
        for w in (solved - weight, weight)
    )
    return float(lost / jnp.maximum(whole, jnp.finfo(jnp.float32).tiny))


def whole(number: int, leaf: Leaf) -> Piece:
    """A whole leaf as matrices, by the meaning of its axes."""
    axes = [
        [a + leaf.stacked for a, x in enumerate(leaf.letters) if x in letters]
        for letters in ("ki", "o")
    ]
    sizes = [leaf.layers, *(math.prod(leaf.shape[a] for a in part) for part in axes)]
    order = [*range(leaf.stacked), *axes[0], *axes[1]]
    numbers = np.arange(leaf.size, dtype=np.int32).reshape(leaf.shape).transpose(order)
    plain = order == sorted(order)
    place = Place(
        shape=tuple(sizes),
        numbers=None if plain else numbers.reshape(sizes),
        groups=None,
        inputs=None,
        key=leaf.path,
    )
    return Piece(leaf.path, Base(number, leaf.path, None, leaf.shape), place, ())
