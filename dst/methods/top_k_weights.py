"""Weight-sparse training (Gao et al. 2025): the k largest weights survive every step."""

from __future__ import annotations

from fractions import Fraction

from dst.rules.allocation import Allocator
from dst.rules.fields import Sparsity
from dst.rules.latent import Latent
from dst.rules.method import method, named
from dst.rules.schedule import Duration, resolve
from dst.rules.structure import Structure, Unstructured

_HINT = "The authors anneal the density over the first half of training."
_STAGES = 100


@named("top-k-weights", kind="latent weights")
@method
class TopKWeights:
    """After every step of the optimizer on all weights, only the k largest of a matrix stay.

    Inactive weights start every step at zero, so one step must bring them among the k largest.
    Moments are dense. Selection runs at each step.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: ``uniform``: the same share of every matrix.
      anneal: density falls linearly from 1 over this time, in 100 stages; steps or percent. 0:
        sparse from the first step.
      structure: what is switched.

    Example:
      >>> TopKWeights(sparsity=0.9, anneal=0).rule().keep_latent
      False

    References:
      Gao et al. 2025, "Weight-sparse transformers have interpretable circuits"
      (arXiv 2511.13653).

    Checked against: the authors' circuit_sparsity/train.py (``apply_topk_``) in the copy
    shiyukonghui/circuit_sparsity at dbf1fe0;
    tests/methods/test_random_cases.py::test_top_k_weights_equal_their_authors_code.
    Differs from the code: annealing begins at step 0 and has at most 100 stages, there at 1 % of
    training and in every step; of a sparsity s, floor(s N) weights are zero; no least number of
    weights per neuron; the learning rate does not follow the density; biases stay dense.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "uniform"
    anneal: Duration = "50%"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        length = resolve("anneal", self.anneal, steps, _HINT)
        n = min(_STAGES, length)
        return Latent(
            self.sparsity,
            self.structure,
            self.allocation,
            keep_latent=False,
            stages=tuple(length * (k + 1) // n for k in range(n)),
            ramp=(lambda k: Fraction(k, n)) if n else None,
        )
