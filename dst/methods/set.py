"""SET (Mocanu et al. 2018): drop by magnitude, grow at random. And its ITOP form."""

from __future__ import annotations

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import drop_schedule
from dst.rules.fields import ColdStart, Decay, Regrow, RegrowValue, Rounding, Share, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import Duration, update_schedule
from dst.rules.signs import keep_by_sign
from dst.rules.structure import Structure, Unstructured

_HINT = "SET rewires at the end of every epoch: give every=<optimizer steps of one epoch>."


@named("set", kind="drop and grow")
@method
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
      end_drop_fraction: at the end of the decay.
      signed: the paper's text: a fraction of the positive and a fraction of the negative weights
        closest to zero are dropped, each rounded down. False: the smallest magnitudes, as in
        RigL's, ITOP's and SRigL's code.
      rounding: of ``n f``: ``floor``, ``ceil`` (ITOP) or ``round``.
      regrow: ``allow`` a connection dropped now to grow back now, or ``forbid`` it. Forbidden, a
        layer exchanges at most as many connections as it has inactive places.
      regrow_value: of such a connection: ``keep`` or ``zero``.
      update_weights: whether the others take an optimizer step at a topology step; all codes do.
      cold_start: see :class:`dst.Rule`.
      structure: what is switched.

    Example:
      >>> SET(sparsity=0.9, every=100, stop=1000).rule().fires(900)
      True

    References:
      Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse
      connectivity inspired by network science" (arXiv 1707.04780), algorithm 1.

    Checked against: google-research/rigl at d39fc7d, rigl/sparse_optimizers_base.py; a twin in
    NumPy, tests/methods/test_twins.py; the signed rule from the paper's description. The authors'
    code removes about one weight more per sign:
    dcmocanu/sparse-evolutionary-artificial-neural-networks at 62ac974,
    SET-MLP-Sparse-Python-Data-Structures/set_mlp_sparse_data_structures.py.
    Differs from that code: grown weights start at zero (as in its Keras version; the other draws
    N(0, 0.01)); exact counts; connections are exchanged before the step of their gradient.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "erk"
    drop_fraction: Share = 0.3
    every: Duration | None = None
    start: Duration | None = None
    stop: Duration | None = "100%"
    decay: Decay = "constant"
    end_drop_fraction: Share = 0.0
    signed: bool = False
    rounding: Rounding = "floor"
    regrow: Regrow = "allow"
    regrow_value: RegrowValue = "keep"
    update_weights: bool = True
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        if self.signed and (self.decay != "constant" or self.structure != Unstructured()):
            raise ValueError("signed=True is the paper's rule: decay='constant' and unstructured.")
        keep = keep_by_sign(self.drop_fraction) if self.signed else None
        when = update_schedule(self.every, self.start, self.stop, steps, _HINT)
        fraction = drop_schedule(self, steps, _HINT)
        return Rule(
            self.sparsity,
            self.structure,
            when,
            HowMany(self.allocation, fraction, self.rounding),
            Which(scores.magnitude, scores.random, keep, self.regrow),
            Reset(self.regrow_value, "changed", self.update_weights, self.cold_start),
        )
