"""DSnoT: exchange pruned for kept weights until the expected output is that of the dense matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array
from dst.oneshot.matrix import Matrix, OneShot
from dst.oneshot.statistics import Needs
from dst.oneshot.wanda import Wanda
from dst.rules.structure import NM, ConstantFanIn, Unstructured

ACCEPT = ("always", "same_sign", "reduce")
_TOKENS = 2048.0  # rows per sequence of the paper, to which its threshold refers
_SMALLEST = 1e-12  # variance


@named("dsnot")
@dataclass(frozen=True)
class DSnoT:
    """Starts from a mask and exchanges weights without training; weights keep their values.

    ``D_i = w_i E[x_i]`` is what a weight adds to the expected output, and ``err`` of an output the
    sum over its pruned weights. While ``|err|`` is above the threshold, the pruned weight with the
    largest ``D / var^power`` of the sign of ``err`` is grown. The kept weight of smallest
    ``|w| ||x||`` whose ``D`` has the other sign is pruned. Under N:M it is the one of smallest
    ``|w| ||x||`` in the same group. Every weight moves at most once.

    Args:
      initial: the method that chooses the first mask; its weights are not used.
      accept: which exchanges are made: ``always``, as the authors' code does; ``same_sign``, while
        ``err`` keeps its sign; ``reduce``, where ``|err|`` falls; others are passed over.
      cycles: exchanges per output, at most.
      threshold: of ``|err|``, for sums over sequences of 2048 rows, >= 0.
      power: of the variance of the inputs, >= 0.

    Raises:
      ValueError: another structure than single weights or N:M.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> forward, x = lambda p, x: x @ p["w"], jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
      >>> params = {"w": jnp.array([[2.0], [1.0], [-3.0]])}
      >>> pruned, _ = dst.prune(params, 0.4, method=dst.DSnoT(), forward=forward, batches=[x])
      >>> int((pruned["w"] != 0).sum())
      2

    References: Zhang et al. 2024, "Dynamic sparse no training" (arXiv 2310.08915).
    Checked against: zyxxmu/DSnoT, lib/prune.py (prune_DSnoT), by two exchanges worked out by hand:
    tests/oneshot/test_methods.py::test_dsnot_exchanges_as_worked_out_by_hand.
    Differs from its code: the variance is that of all rows together, not the mean of those of
    batches; outputs whose candidates run out stop; all matrices are treated, where the code leaves
    out the feed-forward layers.
    """

    needs: ClassVar[Needs] = "norms"

    initial: OneShot = Wanda()
    accept: Literal["always", "same_sign", "reduce"] = "always"
    cycles: int = 50
    threshold: float = 0.1
    power: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of("accept of DSnoT", self.accept, ACCEPT)
        checks.integer("cycles of DSnoT", self.cycles, at_least=1)
        checks.at_least_zero("threshold of DSnoT", self.threshold)
        checks.at_least_zero("power of DSnoT", self.power)

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        structure = matrix.structure
        if not isinstance(structure, (Unstructured, NM, ConstantFanIn)):
            raise ValueError(
                f"{matrix.name}: DSnoT exchanges single weights, also under N:M, got {structure}."
            )
        inputs, weight = matrix.inputs, matrix.weight
        mean = inputs.sums / jnp.maximum(inputs.rows, 1.0)[:, None]
        mask = self.exchanged(
            self.initial(matrix)[1],
            weight * (mean * _TOKENS)[:, :, None],
            inputs.variance,
            Wanda().scores(matrix),
            alive=weight != 0 if matrix.preserve else None,
            group=structure.m if isinstance(structure, NM) else None,
        )
        return jnp.where(mask, weight, 0.0), mask

    def exchanged(
        self,
        mask: Array,
        contribution: Array,
        variance: Array,
        scores: Array,
        *,
        alive: Array | None = None,
        group: int | None = None,
    ) -> Array:
        """The mask after all exchanges.

        Args:
          mask: the first, bool ``[groups, inputs, outputs]``.
          contribution: ``D``, of its shape.
          variance: of the inputs, ``[groups, inputs]``.
          scores: by which kept weights are pruned, of the shape of the mask.
          alive: weights that may be grown; None: all.
          group: M of N:M.
        """
        spread = jnp.maximum(variance, _SMALLEST)[:, :, None] ** self.power
        may_grow = ~mask if alive is None else ~mask & alive
        arrays = (mask, may_grow, contribution, contribution / spread, scores)
        return _exchanged(*arrays, method=self, group=group)


class _State(NamedTuple):
    """Of one output: its mask, weights that have not moved, the error, whether it goes on."""

    mask: Array
    free: Array
    error: Array
    active: Array


@partial(jax.jit, static_argnames=("method", "group"))
def _exchanged(
    mask: Array,
    may_grow: Array,
    contribution: Array,
    gain: Array,
    scores: Array,
    *,
    method: DSnoT,
    group: int | None,
) -> Array:
    def one(mask: Array, may_grow: Array, d: Array, gain: Array, scores: Array) -> Array:
        index = jnp.arange(mask.size)
        first = jnp.sum(jnp.where(mask, 0.0, d))

        def cycle(_: Array, state: _State) -> _State:
            positive = state.error > 0
            candidates = may_grow & state.free
            wanted = jnp.where(positive, gain, -gain)
            grown = jnp.argmax(jnp.where(candidates, wanted, -jnp.inf))
            kept = mask & state.free
            if group is None:
                kept &= jnp.where(positive, d < 0, d > 0)
            else:
                kept &= index // group == grown // group
            pruned = jnp.argmin(jnp.where(kept, scores, jnp.inf))
            error = state.error + d[pruned] - d[grown]
            active = state.active & (jnp.abs(state.error) > method.threshold)
            active &= candidates.any() & kept.any()
            if method.accept == "same_sign" or (group is not None and method.accept == "always"):
                active &= jnp.sign(error) == jnp.sign(first)
            moved = active
            if method.accept == "reduce":
                moved &= jnp.abs(error) < jnp.abs(state.error)
            either = (index == grown) | (index == pruned)
            return _State(
                mask=jnp.where(moved & either, index == grown, state.mask),
                free=state.free & ~(active & either),
                error=jnp.where(moved, error, state.error),
                active=active,
            )

        start = _State(mask, jnp.ones_like(mask), first, jnp.array(True))
        return lax.fori_loop(0, method.cycles, cycle, start).mask

    of_outputs = jax.vmap(one, in_axes=1, out_axes=1)
    return jax.vmap(of_outputs)(mask, may_grow, contribution, gain, scores)
