"""How much pruning each layer raises the loss, and the allocation that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core import checks, tree
from dst.core.selection import top_k_masks
from dst.core.text import aligned
from dst.core.typing import Array, Batch, Params
from dst.rules.allocation import Allocation, Layer, zeros
from dst.rules.schedule import exact


@dataclass(frozen=True)
class Sensitivity:
    """Losses of a network with one layer pruned at a time; printable.

    Attributes:
      paths: of the leaves that were pruned.
      sizes: their numbers of weights.
      sparsities: that each was pruned to, ascending.
      baseline: loss of the network as it is.
      losses: one row per leaf, one entry per sparsity.
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    sparsities: tuple[float, ...]
    baseline: float
    losses: tuple[tuple[float, ...], ...]

    def increase(self, path: str) -> tuple[float, ...]:
        """Loss minus baseline at every sparsity, for one leaf."""
        checks.one_of("path", path, self.paths)
        return tuple(loss - self.baseline for loss in self.losses[self.paths.index(path)])

    def allocation(self) -> EqualIncrease:
        """An allocation for ``allocation=`` of any method: less sensitive layers are sparser."""
        return EqualIncrease(self)

    def __str__(self) -> str:
        lines = [("leaf", "weights", *(f"{s:g}" for s in self.sparsities))]
        for path, size, losses in zip(self.paths, self.sizes, self.losses, strict=True):
            lines.append((path, str(size), *(f"{x - self.baseline:+.4f}" for x in losses)))
        return "\n".join([*aligned(lines), f"loss as it is: {self.baseline:.4f}; above: increases"])


@dataclass(frozen=True)
class EqualIncrease:
    """Every layer as sparse as one common increase of the loss allows.

    A curve through the measured increases, monotone and piecewise linear, gives the sparsity of a
    layer for an increase. The common increase is that at which the whole has the global sparsity.
    All layers together have exactly ``floor(sparsity * weights)`` zeros, where no leaf stacks
    several layers. No layer becomes sparser than was measured.

    Args:
      measured: the result of :func:`dst.sensitivity`.

    Source: the per-layer pruning curves of Han et al. 2015 (arXiv 1506.02626, section 3) and Li
      et al. 2017 (arXiv 1608.08710), read off at one common increase; the rule is ours.
    """

    measured: Sensitivity

    def __call__(self, layers: Mapping[str, Layer], sparsity: float) -> Allocation:
        fixed = {p: exact(x.sparsity) for p, x in layers.items() if x.sparsity is not None}
        free = {p: x for p, x in layers.items() if x.sparsity is None}
        unknown = [p for p in free if p not in self.measured.paths]
        if unknown:
            raise ValueError(
                f"allocation: the sensitivity of {unknown} was not measured; known are "
                f"{list(self.measured.paths)}. Measure all sparse leaves: the same select=."
            )
        total = sum(x.size * x.layers for x in free.values())
        wanted = zeros(total, sparsity)
        shares = self._shares(free, wanted)
        counts = {p: math.floor(shares[p] * x.size) for p, x in free.items()}
        missing = wanted - sum(counts[p] * x.layers for p, x in free.items())
        # The zeros that rounding down has lost go to the layers that lost most.
        lost = {p: shares[p] * x.size - counts[p] for p, x in free.items()}
        for path in sorted(free, key=lambda p: -lost[p]):
            if free[path].layers <= missing:
                counts[path] += 1
                missing -= free[path].layers
        sparsities = fixed | {p: Fraction(counts[p], x.size) for p, x in free.items()}
        return Allocation({p: sparsities[p] for p in layers})

    def _shares(self, layers: Mapping[str, Layer], wanted: int) -> dict[str, float]:
        """Sparsities of one common increase that add up to the zeros that are wanted."""
        curves = {p: np.maximum.accumulate([0, *self.measured.increase(p)]) for p in layers}
        grid = np.array([0, *self.measured.sparsities])

        def at(increase: float) -> dict[str, float]:
            return {p: _largest(grid, curve, increase) for p, curve in curves.items()}

        def total(shares: Mapping[str, float]) -> float:
            return sum(shares[p] * x.size * x.layers for p, x in layers.items())

        # A curve may be flat, so that sparsities jump with the increase: the last two are mixed.
        low, high = dict.fromkeys(layers, 0.0), at(math.inf)
        if total(high) < wanted:
            raise ValueError(
                f"allocation: sparsities up to {grid[-1]:g} were measured. They give "
                f"{int(total(high))} zeros, expected {wanted}. Measure higher sparsities."
            )
        least, most = 0.0, float(max(curve[-1] for curve in curves.values()))
        for _ in range(80):
            middle = (least + most) / 2
            if total(at(middle)) < wanted:
                least, low = middle, at(middle)
            else:
                most, high = middle, at(middle)
        gap = total(high) - total(low)
        part = (wanted - total(low)) / gap if gap else 0.0
        return {p: low[p] + part * (high[p] - low[p]) for p in layers}


def sensitivity(
    loss: Callable[[Params, Batch], Array],
    params: Params,
    batch: Batch,
    sparsities: Sequence[float],
    *,
    select: tree.Select | None = None,
    stacked: Mapping[str, int] | None = None,
    at_once: int = 4,
) -> Sensitivity:
    """The loss after pruning one leaf at a time by magnitude, to each of several sparsities.

    A leaf of ``n`` weights loses the ``floor(sparsity * n)`` smallest, the others stay as they
    are. All pairs of leaf and sparsity run in one compiled program.

    Args:
      loss: ``loss(params, batch) -> scalar``.
      params: any pytree of weights.
      batch: what the loss is measured on; any pytree of arrays.
      sparsities: in [0, 1).
      select, stacked: which leaves, and how they stack layers, as in :func:`dst.sparsify`; every
        slice of a stacked leaf is pruned to the sparsity.
      at_once: pairs that are evaluated side by side; the program holds as many copies of the
        activations, and a byte per weight and sparsity.

    Raises:
      ValueError: no sparsities, one outside [0, 1), or no leaf to prune.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> params = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> curves = dst.sensitivity(lambda p, x: jnp.sum(p["w"] * x), params, 1.0, [0.5])
      >>> curves.increase("w")
      (-3.0,)

    Source: one-layer-at-a-time pruning curves, Han et al. 2015 (arXiv 1506.02626, figure 6).
    Checked against: NumPy, one leaf and sparsity at a time (tests/inspect/test_sensitivity.py).
    """
    values = sorted({float(s) for s in sparsities})
    for value in values:
        checks.fraction("sparsities", value, below_one=True)
    checks.integer("at_once", at_once, at_least=1)
    leaves = [x for x in tree.survey(params, select=select, stacked=stacked) if x.sparse]
    if not values or not leaves:
        raise ValueError(
            f"sensitivity needs sparsities and leaves to prune, got {len(values)} and "
            f"{len(leaves)}. Use select=."
        )
    paths, _, _ = tree.flatten(params)
    places = [paths.index(leaf.path) for leaf in leaves]
    axes = [tuple(range(leaf.stacked)) for leaf in leaves]
    kept = np.array([[x.layer_size - zeros(x.layer_size, s) for x in leaves] for s in values])
    pairs = [(i, j) for i in range(len(leaves)) for j in range(len(values))]

    @jax.jit
    def losses(params: Params, batch: Batch, kept: Array, pairs: Array) -> Array:
        _, weights, treedef = tree.flatten(params)
        scores = [jnp.abs(weights[i]).astype(jnp.float32) for i in places]

        def chosen(counts: Array) -> list[Array]:
            return top_k_masks(scores, list(counts), [None] * len(scores), axes)

        masks = lax.map(chosen, kept)  # per leaf [sparsity, *shape]

        def one(pair: Array) -> Array:
            pruned = list(weights)
            for number, (i, mask) in enumerate(zip(places, masks, strict=True)):
                keep = mask[pair[1]] | (pair[0] != number)
                pruned[i] = jnp.where(keep, weights[i], jnp.zeros_like(weights[i]))
            return jnp.asarray(loss(treedef.unflatten(pruned), batch), jnp.float32)

        return lax.map(one, pairs, batch_size=at_once)

    nothing = [(-1, 0)]  # the network as it is
    measured = np.asarray(losses(params, batch, kept, np.array(pairs + nothing, np.int32)))
    table = measured[:-1].reshape(len(leaves), len(values))
    return Sensitivity(
        paths=tuple(leaf.path for leaf in leaves),
        sizes=tuple(leaf.size for leaf in leaves),
        sparsities=tuple(values),
        baseline=float(measured[-1]),
        losses=tuple(tuple(map(float, row)) for row in table),
    )


def _largest(grid: np.ndarray, curve: np.ndarray, increase: float) -> float:
    """The largest position on a grid at which a rising curve is at most ``increase``."""
    i = int(np.searchsorted(curve, increase, side="right"))
    if i == len(curve):
        return float(grid[-1])
    if i == 0:
        return 0.0
    share = (increase - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(grid[i - 1] + share * (grid[i] - grid[i - 1]))
