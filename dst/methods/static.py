"""Static sparse training: a mask drawn at initialisation that never changes."""

from __future__ import annotations

from dst.rules.allocation import Allocator
from dst.rules.fields import Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Rule
from dst.rules.structure import Structure, Unstructured


@named("static", kind="pruning at initialisation")
@method
class Static:
    """Random pruning at initialisation, then training at a fixed mask.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: sparsity per layer.
      structure: what is switched.

    Example:
      >>> Static(sparsity=0.9).rule().fires(100)
      False

    References:
      Liu et al. 2022, "The Unreasonable Effectiveness of Random Pruning" (arXiv 2202.02643).

    Checked against: VITA-Group/Random_Pruning at 871077f, CIFAR/sparselearning/core.py;
    tests/methods/test_methods.py::test_a_static_mask_never_changes.
    Differs from the code: exact counts per layer where it draws each weight independently.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "erk"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule; ``steps`` is not needed."""
        return Rule(self.sparsity, self.structure, how_many=HowMany(self.allocation))
