"""SET (Mocanu et al. 2018): drop by magnitude, grow at random. And its ITOP form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax.numpy as jnp

from dst.core import checks
from dst.core.selection import top_k_masks
from dst.core.typing import Array
from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import check_cadence, check_drop, drop_schedule
from dst.rules.rule import Rule, fires
from dst.rules.schedule import Duration, cadence, exact
from dst.rules.structure import Structure, Unstructured

_RULE = "SET rewires at the end of every epoch: give every=<optimizer steps of one epoch>."


@dataclass(frozen=True)
class SET:
    """Sparse evolutionary training: drops the smallest weights and grows as many at random.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: sparsity per layer; the paper's is ER (its epsilon sets the density), which for
        fully connected layers is ERK.
      drop_fraction: zeta, in [0, 1].
      every: steps between topology steps. The paper: one epoch, which only you know.
      start: first topology step; None: after one interval.
      stop: topology steps lie before it; steps or percent. The paper rewires after every epoch
        but the last.
      decay: ``constant`` (the paper), ``cosine`` (as in RigL's code) or ``linear``.
      floor: drop fraction at the end of the decay.
      signed: the paper's text: a fraction of the positive and a fraction of the negative weights
        closest to zero are dropped, each rounded down. False: the smallest magnitudes, as in
        RigL's, ITOP's and SRigL's code.
      rounding: of ``n f``: ``floor``, ``ceil`` (ITOP) or ``round``.
      regrow: ``allow`` a connection dropped now to grow back now, or ``forbid`` it.
      regrown: value of such a connection: ``keep`` or ``zero``.
      update_weights: whether the others take an optimizer step at a topology step; all codes do.
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> SET(sparsity=0.9, every=100, stop=1000).rule().fires(900)
      True

    References:
      Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse
      connectivity inspired by network science" (arXiv 1707.04780), algorithm 1.

    Checked against: google-research/rigl at d39fc7d, rigl/sparse_optimizers_base.py; the signed
    rule from the paper's description. The authors' code removes about one weight more per sign:
    dcmocanu/sparse-evolutionary-artificial-neural-networks at 62ac974,
    SET-MLP-Sparse-Python-Data-Structures/set_mlp_sparse_data_structures.py.
    Differs from that code: grown weights start at zero (as in its Keras version; the other draws
    N(0, 0.01)); exact counts; connections are exchanged before the step of their gradient.
    """

    sparsity: float
    allocation: str | Allocator = "erk"
    drop_fraction: float = 0.3
    every: Duration | None = None
    start: Duration | None = None
    stop: Duration | None = "100%"
    decay: str = "constant"
    floor: float = 0.0
    signed: bool = False
    rounding: str = "floor"
    regrow: str = "allow"
    regrown: str = "keep"
    update_weights: bool = True
    cold_start: str | int = "local_count"
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_drop(self)
        check_cadence(self.every, self.start, self.stop)
        if self.signed and (self.decay != "constant" or self.structure != Unstructured()):
            raise ValueError("signed=True is the paper's rule: decay='constant' and unstructured.")
        self._rule()

    def _rule(self, **schedule: Any) -> Rule:
        return Rule(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            drop=scores.magnitude,
            grow=scores.random,
            keep=keep_by_sign(self.drop_fraction) if self.signed else None,
            rounding=self.rounding,
            regrow=self.regrow,
            regrown=self.regrown,
            update_weights=self.update_weights,
            cold_start=self.cold_start,
            **schedule,
        )

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        if self.every is None:
            raise ValueError(f"SET has no cadence. {_RULE}")
        return self._rule(
            cadence=cadence(self.every, self.start, self.stop, steps, _RULE),
            fraction=drop_schedule(self, steps, _RULE),
        )


def keep_by_sign(drop_fraction: float) -> Callable[[scores.Connections], Array]:
    """Which active weights stay: all but a fraction of each sign, those closest to zero.

    Counts are exact: ``floor(n * fraction)`` in integers, for fractions of up to four decimals.
    A weight that is exactly zero counts as positive.
    """
    share: Fraction = exact(drop_fraction).limit_denominator(10_000)
    checks.fraction("drop_fraction", drop_fraction)

    def keep(leaf: scores.Connections) -> Array:
        positive = leaf.active & (leaf.weight >= 0)
        negative = leaf.active & (leaf.weight < 0)
        size = jnp.abs(leaf.weight)
        kept = []
        for side in (positive, negative):
            n = jnp.sum(side, dtype=jnp.int32)
            whole, rest = n // share.denominator, n % share.denominator
            dropped = whole * share.numerator + rest * share.numerator // share.denominator
            kept.append(n - dropped)
        chosen = top_k_masks([size, size], kept, [positive, negative], [(), ()])
        return chosen[0] | chosen[1]

    return keep
