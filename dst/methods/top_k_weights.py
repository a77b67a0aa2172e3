"""Weight-sparse training (Gao et al. 2025): the k largest weights survive every step."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from dst.rules.allocation import Allocator
from dst.rules.durations import check_cadence
from dst.rules.latent import Latent
from dst.rules.rule import fires
from dst.rules.schedule import Duration, resolve
from dst.rules.structure import Structure, Unstructured

_RULE = "The authors anneal the density over the first half of training."
_STAGES = 100


@dataclass(frozen=True)
class TopKWeights:
    """After every step of the optimizer on all weights, only the k largest of a matrix stay.

    Inactive weights are zero at every step and must win their place in a single one; moments
    are dense. Selection runs at each step.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: ``uniform``: the same share of every matrix.
      anneal: density falls linearly from 1 over this time, in 100 stages; steps or percent. 0:
        sparse from the first step.
      structure: what is switched.

    Example:
      >>> TopKWeights(sparsity=0.9, anneal=0).rule().remember
      False

    References:
      Gao et al. 2025, "Weight-sparse transformers have interpretable circuits"
      (arXiv 2511.13653).

    Checked against: the statement of the rule (k largest per matrix after every AdamW step); the
    rest from memory. Not built: the authors' least number of weights per neuron.
    """

    sparsity: float
    allocation: str | Allocator = "uniform"
    anneal: Duration = "50%"
    structure: Structure = Unstructured()

    fires = fires

    def __post_init__(self) -> None:
        check_cadence(None, self.anneal, None)
        self._rule((), None)

    def _rule(self, stages: tuple[int, ...], ramp: object) -> Latent:
        return Latent(
            sparsity=self.sparsity,
            allocation=self.allocation,
            structure=self.structure,
            remember=False,
            stages=stages,
            ramp=ramp,  # type: ignore[arg-type]
        )

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        length = resolve("anneal", self.anneal, steps, _RULE)
        n = min(_STAGES, length)
        if n == 0:
            return self._rule((), None)
        stages = tuple(length * (k + 1) // n for k in range(n))
        return self._rule(stages, lambda k: Fraction(k, n))
