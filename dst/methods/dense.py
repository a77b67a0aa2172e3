"""Dense training, through the same interface: the baseline of every table."""

from __future__ import annotations

from dst.rules.method import method, named
from dst.rules.rule import Rule


@named("dense", kind="fixed masks")
@method
class Dense:
    """No mask, no topology: the wrapped optimizer, unchanged.

    Checked against: the bare optimizer, bit for bit without jit;
    tests/methods/test_methods.py::test_a_dense_method_is_the_bare_optimizer.
    """

    def rule(self, steps: int | None = None) -> Rule:
        """The rule that selects nothing."""
        return Rule(sparsity=0.0)
