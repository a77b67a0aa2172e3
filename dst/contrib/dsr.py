"""DSR (Mostafa and Wang 2019): one threshold for all layers, and random growth across layers."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.accumulators import threshold
from dst.rules.allocation import Allocator
from dst.rules.durations import require_unstructured
from dst.rules.fields import AboveZero, ColdStart, Positive, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, update_schedule
from dst.rules.structure import Structure, Unstructured
from dst.rules.thresholds import above_threshold, by_survivors

_HINT = "DSR changes topology every 1000 to 8000 steps on ImageNet, until epoch 95 of 100."


@named("dsr", kind="drop and grow")
@method
class DSR:
    """Drops the weights below a threshold H and grows as many at random, where layers kept most.

    Every layer keeps its largest weight. A layer's share of the growth is its share of the weights
    that survive in all layers. Nothing grows back at the step that drops it. H is halved where a
    topology step drops more than 1.1 ``exchanged`` weights, and doubled where it drops fewer than
    0.9 ``exchanged``.

    Args:
      sparsity: of the selected weights, in [0.5, 1): as many must be inactive as can be dropped,
        also with overrides or masks to start from.
      allocation: at the start; the paper's is uniform.
      exchanged: weights of all layers that a topology step should exchange.
      threshold: H at the start, above 0.
      every: steps between topology steps; the paper's schedule doubles it several times.
      start, stop: first topology step, and the step before which the last one lies.
      cold_start: see :class:`dst.Rule`.
      structure: unstructured only.

    Example:
      >>> DSR(sparsity=0.9, exchanged=600, every=100, stop=1000).rule().fires(900)
      True

    References:
      Mostafa and Wang 2019, "Parameter Efficient Training of Deep Convolutional Neural Networks by
      Dynamic Sparse Reparameterization" (arXiv 1902.05967).

    Checked against: a description of the authors' code (IntelAI/dynamic-reparameterization), which
    was not read itself; its numbers by hand and a twin in plain loops, tests/methods/test_dsr.py.
    Differs from that code: shares are rounded down and leave their rest to the first layers, there
    to a random one; of a layer below H the largest weight stays, there the first; H
    changes at the update after a topology step; grown weights lose stale optimizer state.
    """

    sparsity: Sparsity
    exchanged: Positive
    allocation: str | Allocator = "uniform"
    threshold: AboveZero = 1e-3
    every: Duration | None = None
    start: Duration | None = None
    stop: Duration | None = "95%"
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        require_unstructured(self, "moves single connections between layers")
        if self.sparsity < 0.5:
            raise ValueError(
                f"DSR may drop every second weight and grows elsewhere: sparsity must be at least "
                f"0.5, got {self.sparsity}. Raise it, or use another method."
            )
        return Rule(
            self.sparsity,
            self.structure,
            update_schedule(self.every, self.start, self.stop, steps, _HINT),
            HowMany(self.allocation, counts=by_survivors),
            Which(
                grow=scores.random,
                keep=above_threshold,
                regrow="forbid",
                accumulator=threshold(self.threshold, self.exchanged),
            ),
            Reset(cold_start=self.cold_start),
        )
