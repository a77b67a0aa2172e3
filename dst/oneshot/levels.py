"""The matrices of a network at several sparsities each, and the loss of their combinations."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import jax.numpy as jnp
import numpy as np

from dst.core.typing import Array
from dst.oneshot.calibrate import of_piece, written
from dst.oneshot.network import Network
from dst.oneshot.stages import Piece


class Levels:
    """Every matrix at every level, pruned from the statistics of the dense network.

    The host keeps of each the weights that are not pruned, and one bit per weight.

    Args:
      network: the dense one.
      zeros: of every matrix at level zero.
      step: zeros between two levels.
      low, high: range of the level of every matrix.

    Raises:
      ValueError: the method prunes another number of weights, naming the matrix.
    """

    def __init__(
        self,
        network: Network,
        zeros: Sequence[int],
        step: int,
        low: Sequence[int],
        high: Sequence[int],
    ):
        self._network, self._objective = network, network.loss
        self._pieces = network.pieces
        self._kept: list[dict[int, tuple[np.ndarray, np.ndarray]]] = []
        needs = network.method.needs
        walk = network.walk("norms" if needs == "nothing" else needs)
        for number, stage in enumerate(walk.plan.stages):
            sources = [] if needs == "nothing" else walk.statistics(number, onward=True)
            for piece in stage.pieces:
                i, size = len(self._kept), piece.place.size
                levels = {}
                for level in range(low[i], high[i] + 1):
                    wanted = zeros[i] + level * step
                    solved = network.leaves.solve(
                        piece,
                        of_piece(piece, sources) if sources else None,
                        Fraction(wanted, size),
                    )
                    mask = np.asarray(solved.mask)
                    self._check(piece, size - int(mask.sum()), wanted)
                    levels[level] = np.packbits(mask), np.asarray(solved.weight)[mask]
                self._kept.append(levels)

    def _check(self, piece: Piece, found: int, wanted: int) -> None:
        if found == wanted:
            return
        groups, _, outputs = piece.shape
        name = type(self._network.method).__name__
        raise ValueError(
            f"allocation: EvoPress keeps the number of all zeros, so {piece.name} must lose "
            f"{wanted} of its {piece.place.size} weights, but {name} prunes {found}. Methods that "
            f"prune output by output meet multiples of {groups * outputs}: choose step and "
            "sparsity so, or use dst.SparseGPT(), dst.ALPS() or dst.Magnitude(), without preserve=."
        )

    def weight(self, number: int, level: int) -> Array:
        """One matrix at one level, ``[groups, inputs, outputs]``."""
        bits, values = self._kept[number][level]
        shape = self._pieces[number].shape
        mask = np.unpackbits(bits, count=self._pieces[number].place.size).astype(bool)
        full = np.zeros(mask.shape, values.dtype)
        full[mask] = values
        return jnp.asarray(full.reshape(shape))

    def loss(self, levels: Sequence[int], batches: Sequence[int]) -> float:
        """The mean loss of the network with its matrices at these levels, on some batches."""
        leaves = list(self._network.leaves.leaves)
        copied: set[int] = set()
        for number, (piece, level) in enumerate(zip(self._pieces, levels, strict=True)):
            at = piece.base.leaf
            if at not in copied:  # writing a row uses an array up
                copied.add(at)
                leaves[at] = jnp.array(leaves[at])
            leaves[at] = written(leaves[at], piece, self.weight(number, level))
        values = [self._objective(leaves, self._network.batches[i]) for i in batches]
        return sum(values) / len(values)
