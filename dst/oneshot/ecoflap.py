"""ECoFLaP: blocks of a network for whose weights the loss is flatter are pruned more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array, Batch
from dst.engine.masks import keys
from dst.oneshot.calibrate import written
from dst.oneshot.loss import Objective
from dst.oneshot.network import Network, block_of, divided, of_global
from dst.oneshot.stages import Piece
from dst.rules.schedule import exact


@named("ecoflap", allocation=True)
@dataclass(frozen=True)
class ECoFLaP:
    """Sparsity per block of the network, from changes of the loss, without gradients.

    For every matrix and every batch, ``p = (L(w + e z) - L(w - e z)) / 2e`` with normal ``z``; the
    other matrices stay as they are. The score of a block is the sum of ``|p|`` over its matrices,
    batches and draws. Every block keeps at least ``1 - sparsity - margin`` of its weights. The rest
    is shared in proportion to the scores, by whole weights; a block that is full hands on what it
    cannot take. Pass it as ``allocation=`` of :func:`dst.prune`, with ``loss``.

    Args:
      draws: of ``z`` per batch, >= 1.
      epsilon: ``e``, > 0.
      margin: how much sparser than the whole a block may become, in (0, 1].
      average: whether a score is divided by the weights of its block.
      block: ``block(name)`` of a matrix, as for :class:`dst.OWL`.
      seed: of the draws.

    Raises:
      ValueError: a margin too small for blocks of so few weights; a loss that is not finite.

    Example:
      >>> ECoFLaP().sparsities({"a": 1, "b": 3, "c": 6}, dict.fromkeys("abc", 1000), 0.5)
      {'a': Fraction(57, 100), 'b': Fraction(51, 100), 'c': Fraction(21, 50)}

    References: Sung et al. 2024, "ECoFLaP: efficient coarse-to-fine layer-wise pruning for
    vision-language models" (arXiv 2310.02998).
    Checked against: ylsung/ECoFLaP, LAVIS/lavis/compression/pruners/layer_single_base_pruner.py, by
    numbers worked out by hand: tests/oneshot/test_ecoflap.py.
    Differs from its code: what is kept in excess is taken away, where the code adds it; blocks
    whose scores are all zero share by their sizes.
    """

    needs_loss: ClassVar[bool] = True

    draws: int = 1
    epsilon: float = 1e-3
    margin: float = 0.1
    average: bool = False
    block: Callable[[str], str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks.integer("draws of ECoFLaP", self.draws, at_least=1)
        checks.above_zero("epsilon of ECoFLaP", self.epsilon)
        checks.above_zero("margin of ECoFLaP", self.margin, at_most=1)
        checks.integer("seed of ECoFLaP", self.seed, at_least=0)

    def shares(self, network: Network) -> dict[str, Fraction]:
        """The sparsity of every matrix; the matrices of a block share its zeros by their sizes."""
        blocks: dict[str, list[Piece]] = {}
        for piece in network.pieces:
            blocks.setdefault(block_of(piece.name, self.block), []).append(piece)
        sizes = {b: sum(x.place.size for x in pieces) for b, pieces in blocks.items()}
        found = {
            b: sum(
                self.score(network.loss, network.leaves.leaves, x, network.batches) for x in pieces
            )
            for b, pieces in blocks.items()
        }
        shares: dict[str, Fraction] = {}
        for b, share in self.sparsities(found, sizes, network.sparsity).items():
            each = [x.place.size for x in blocks[b]]
            zeros = divided(int(share * sizes[b]), each)
            for piece, n, size in zip(blocks[b], zeros, each, strict=True):
                shares[piece.name] = Fraction(n, size)
        return shares

    def score(
        self, loss: Objective, leaves: Sequence[Array], piece: Piece, batches: Sequence[Batch]
    ) -> float:
        """The sum of ``|p|`` of one matrix over all batches and draws.

        Raises:
          ValueError: a loss that is not finite.
        """
        total, number = 0.0, piece.base.leaf
        dense = leaves[number]
        weight = piece.place.matrices(piece.base.read(dense)).astype(jnp.float32)
        for i, batch in enumerate(batches):
            for draw in range(self.draws):
                z = self.noise(piece.name, i * self.draws + draw, weight)
                sides = []
                for step in (self.epsilon, -self.epsilon):
                    moved = list(leaves)  # writing a row uses an array up: copy the leaf
                    moved[number] = written(jnp.array(dense), piece, weight + step * z)
                    sides.append(loss(moved, batch))
                total += abs(sides[0] - sides[1]) / (2 * self.epsilon)
        if not math.isfinite(total):
            raise ValueError(
                f"loss: expected finite values near the weights of {piece.name}, found NaN or "
                "infinity. Check the batches, and lower epsilon."
            )
        return total

    def noise(self, name: str, draw: int, weight: Array) -> Array:
        """``z``: normal, float32 of the shape of the weight."""
        (key,) = keys([name], jnp.asarray(self.seed, jnp.uint32), draw)
        return jax.random.normal(key, weight.shape, jnp.float32)

    def sparsities(
        self, scores: Mapping[str, float], sizes: Mapping[str, int], sparsity: float
    ) -> dict[str, Fraction]:
        """Sparsity of each block, from its score and its number of weights; the sum is exact.

        Raises:
          ValueError: blocks that must keep more than all of them may.
        """
        names = list(scores)
        n = np.array([sizes[b] for b in names], np.int64)
        score = np.array([float(scores[b]) for b in names])
        if self.average:
            score = score / n
        total = int(n.sum())
        target = total - of_global(sparsity, total)
        lowest = max(1 - exact(sparsity) - exact(self.margin), Fraction(0))
        least = np.array([max(math.ceil(lowest * int(x)), 1) for x in n], np.int64)
        if least.sum() > target:
            raise ValueError(
                f"allocation: with margin {self.margin:g}, ECoFLaP must keep {least.sum()} weights "
                f"of all blocks, but sparsity {sparsity:g} leaves {target}. Raise the margin."
            )
        keep = least.copy()
        while (rest := target - int(keep.sum())) > 0:
            open_ = np.where(keep < n, score, 0)
            if open_.sum() == 0:
                open_ = np.where(keep < n, n, 0)
            keep = np.minimum(keep + np.ceil(open_ / open_.sum() * rest).astype(np.int64), n)
        excess = int(keep.sum()) - target
        for i in np.argsort(-keep, kind="stable"):
            taken = min(excess, int(keep[i] - least[i]))
            keep[i] -= taken
            excess -= taken
        return {b: Fraction(int(x - k), int(x)) for b, x, k in zip(names, n, keep, strict=True)}
