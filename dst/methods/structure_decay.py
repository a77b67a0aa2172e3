"""Structure decay (Bambhaniya et al. 2024): the N:M pattern narrows step by step."""

from __future__ import annotations

import math
from fractions import Fraction

from dst.rules.latent import Latent
from dst.rules.method import method, named
from dst.rules.schedule import Duration, window
from dst.rules.structure import NM

_HINT = "Decay begins after some dense training and ends before the last phase."


@named("structure-decay", kind="latent weights")
@method
class StructureDecay:
    """The pattern narrows from m-1 of m over halves down to n of m (SdGf).

    Weights are recomputed from dense ones at every step, with straight-through gradients. The
    stages from ``start`` to ``stop`` have equal lengths; the last pattern then stays.

    Args:
      n, m: the final pattern.
      start, stop: of the stages; steps or percent. Before ``start``: dense.

    Example:
      >>> stages(1, 16)
      [15, 8, 4, 2, 1]

    References:
      Bambhaniya et al. 2024, "Progressive Gradient Flow for Robust N:M Sparsity Training in
      Transformers" (arXiv 2402.04744).

    Checked against: abhibambhaniya/progressive_gradient_flow_nm_sparsity at 4ee44a4,
    timm/sparse_pruning/sparse_functions.py (``get_decay_config``, "sparsify");
    tests/engine/test_latent.py::test_structure_decay_passes_through_the_golden_stages and
    tests/methods/test_random_cases.py::test_structure_decay_equals_its_authors_code.
    Differs from the code: as :class:`dst.MaskDecay`; the step of count ``start`` makes the first
    pattern, so the forward pass after it uses it first.
    """

    n: int = 2
    m: int = 4
    start: Duration = "10%"
    stop: Duration = "75%"

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        structure, narrower = NM(self.n, self.m), stages(self.n, self.m)
        start, stop = window(self.start, self.stop, steps, _HINT)
        kept, n = [self.m, *narrower], len(narrower)
        return Latent(
            float(structure.sparsity),
            structure,
            stages=tuple(start + (stop - start) * k // n for k in range(n)),
            ramp=lambda k: Fraction(self.m - kept[k], self.m - self.n),
        )


def stages(n: int, m: int) -> list[int]:
    """Active weights per group of ``m`` in every stage.

    >>> stages(2, 8)
    [7, 4, 2]
    """
    NM(n, m)
    frames = math.log2(m / n) + 1
    if frames != int(frames):
        raise ValueError(
            f"structure decay halves its way down: m / n must be a power of two, got {m} / {n}."
        )
    return [m - 1, *(m >> i for i in range(1, int(frames)))]
