"""OWL: blocks of a language model with more outliers are pruned less."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.calibrate import of_piece
from dst.oneshot.matrix import Matrix
from dst.oneshot.network import Network, block_of
from dst.oneshot.stages import Piece
from dst.oneshot.statistics import Statistics
from dst.oneshot.wanda import Wanda
from dst.rules.schedule import exact

_LOWEST = 0.01  # sparsity of a block whose share would be none


@named("owl", allocation=True)
@dataclass(frozen=True)
class OWL:
    """Sparsity per block of the network, from the share of outliers among its Wanda scores.

    ``LOD_l`` is the percentage of scores ``|w| ||x||`` in block ``l`` that are above ``outlier``
    times their mean, of the dense network. Densities are ``d_l - mean(d) + 1 - sparsity`` with
    ``d_l = 2 strength (LOD_l - min) / (max - min)``. The mean is over weights, so the whole has the
    global sparsity. Pass it as ``allocation=`` of :func:`dst.prune`, with ``forward`` and
    ``batches``.

    Args:
      outlier: multiple of the mean, > 0.
      strength: lambda; the densities span twice as much, in (0, 0.5).
      block: ``block(name)`` of a matrix, by its name; None: the path up to its first number, such
        as ``blocks/3``, and of a leaf that stacks layers ``blocks[3]``.

    References: Yin et al. 2024, "Outlier weighed layerwise sparsity" (arXiv 2310.05175).
    Checked against: luuyin/OWL, lib/prune_all.py (prune_wanda_outlier), by numbers worked out by
    hand: tests/oneshot/test_methods.py::test_owl_gives_blocks_with_outliers_more_weights.
    Differs from its code: blocks of different sizes count by their weights; equal blocks get equal
    sparsities, where the code divides by zero.
    """

    needs_loss: ClassVar[bool] = False

    outlier: float = 5.0
    strength: float = 0.08
    block: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        checks.above_zero("outlier of OWL", self.outlier)
        checks.above_zero("strength of OWL", self.strength, at_most=0.5)

    def block_of(self, name: str) -> str:
        """The block of a matrix."""
        return block_of(name, self.block)

    def shares(self, network: Network) -> dict[str, Fraction]:
        """The sparsity of every matrix, from one pass over the dense network."""
        walk = network.walk("norms")
        found: dict[str, list[tuple[Piece, Statistics]]] = {}
        for number, stage in enumerate(walk.plan.stages):
            sources = walk.statistics(number, onward=True)
            for piece in stage.pieces:
                pair = (piece, of_piece(piece, sources))
                found.setdefault(self.block_of(piece.name), []).append(pair)
        outliers, sizes, dense = {}, {}, exact(network.sparsity)
        for block, pairs in found.items():
            scores = [Wanda().scores(Matrix(p.name, walk.weights(p), s, dense)) for p, s in pairs]
            outliers[block] = self.outliers(scores)
            sizes[block] = sum(x.size for x in scores)
        shares = self.sparsities(outliers, sizes, network.sparsity)
        return {piece.name: shares[b] for b, pairs in found.items() for piece, _ in pairs}

    def outliers(self, scores: Sequence[Array]) -> float:
        """``LOD`` of a block: the percentage of its scores above ``outlier`` times their mean."""
        total = sum(float(jnp.sum(x)) for x in scores)
        size = sum(x.size for x in scores)
        above = sum(int(jnp.sum(x > self.outlier * total / size)) for x in scores)
        return 100 * above / size

    def sparsities(
        self, outliers: Mapping[str, float], sizes: Mapping[str, int], sparsity: float
    ) -> dict[str, Fraction]:
        """Sparsity of each block, from its ``LOD`` and its number of weights.

        Raises:
          ValueError: a sparsity so high that a block would keep nothing.
        """
        share = np.array([float(outliers[b]) for b in outliers])
        weights = np.array([sizes[b] for b in outliers], float)
        span = share.max() - share.min()
        if span == 0:
            return dict.fromkeys(outliers, exact(sparsity))
        density = (share - share.min()) * (2 * self.strength / span)
        values = sparsity - density + np.average(density, weights=weights)
        if values.max() >= 1:
            raise ValueError(
                f"allocation: with strength {self.strength:g}, OWL would leave nothing of a block "
                f"at sparsity {sparsity:g}. Lower one of the two."
            )
        return {
            b: exact(round(max(float(v), _LOWEST), 12))
            for b, v in zip(outliers, values, strict=True)
        }
