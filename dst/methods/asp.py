"""ASP (NVIDIA apex): one-shot N:M pruning of a trained network, then training at that mask."""

from __future__ import annotations

from dst.rules.method import method, named
from dst.rules.rule import HowMany, Rule, Start
from dst.rules.structure import NM


@named("asp", kind="fixed masks")
@method
class ASP:
    """Keeps the ``n`` largest of every ``m`` consecutive weights along the input axis, once.

    Start from a trained network: ``init`` computes the mask from its parameters.

    Args:
      n, m: the pattern.

    Example:
      >>> ASP().rule().structure
      NM(n=2, m=4)

    References:
      Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378).

    Checked against: NVIDIA/apex at 0441afd, apex/contrib/sparsity/sparse_masklib.py (m4n2_1d) and
    asp.py; tests/methods/test_goldens.py::test_asp_keeps_two_of_four_along_the_inputs and
    tests/methods/test_random_cases.py::test_asp_equals_its_authors_code.
    Differs from apex: no permutation of input channels; ties keep the lower index; every selected
    leaf whose input axis the pattern divides, where apex also asks for multiples of 8 and 16.
    """

    n: int = 2
    m: int = 4

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        structure = NM(self.n, self.m)
        return Rule(
            float(structure.sparsity),
            structure,
            how_many=HowMany("uniform"),
            start=Start("magnitude"),
        )
