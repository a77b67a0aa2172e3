"""Iterative SNIP (de Jorge et al. 2021): SNIP in many small rounds."""

from __future__ import annotations

from typing import Any

from dst.methods.snip import SNIP
from dst.rules.method import named, preset

_SETTINGS: dict[str, Any] = {"rounds": 300}


@named("iterative-snip", kind="pruning at initialisation")
@preset(SNIP, _SETTINGS)
def iterative_snip(sparsity: float, **changes: Any) -> SNIP:
    """SNIP in 300 rounds, each on a batch of its own: what is pruned stays pruned.

    After round k of n the density is ``(1 - sparsity) ** (k / n)``. The first n updates train
    nothing.

    Args:
      sparsity: of the selected weights, in [0, 1).
      changes: other fields of :class:`dst.SNIP`, such as ``rounds``.

    Example:
      >>> iterative_snip(0.9, rounds=10).rule().fires(9)
      True

    References:
      de Jorge et al. 2021, "Progressive Skeletonization: Trimming more fat from a network at
      initialization" (arXiv 2006.09081).

    Checked against: naver/force at 7494eed, pruning/pruning_algos.py (``prune_method=1``, "exp");
    a twin in plain loops, tests/methods/test_before_training.py.
    Differs from the code: exact counts; every layer keeps at least one weight. Its script does 10
    rounds unless told otherwise.
    """
    return SNIP(sparsity, **{**_SETTINGS, **changes})
