"""The Journey Matters (Jin et al. 2025): when to prune while pre-training."""

from __future__ import annotations

from typing import Any

from dst.methods.gmp import GMP

# See journey.
JOURNEY = {"curve": "geometric", "compute": True, "start": "25%", "stop": "75%"}


def journey(sparsity: float, **changes: Any) -> GMP:
    """Pruning from 25 % to 75 % of the training *compute*, at a constant rate of the remaining
    weights: sparse pre-training as "The Journey Matters" recommends it.

    A step costs in proportion to its active weights, so compute is not steps: dense steps come
    first and are dear. With ``d`` the mean density between the two ends of the ramp, the run
    costs ``C`` of a dense one, ``1 / C = .25 + .5 / d + .25 / (1 - sparsity)``; pruning starts at
    step ``.25 C`` and ends at ``.25 C + .5 C / d`` of all steps.

    References:
      Jin et al. 2025, "The Journey Matters: Average Parameter Count over Pre-training Unifies
      Sparse and Dense Scaling Laws" (arXiv 2501.12486).

    Checked against: the abstract and the published settings of sparsellm (spec C2): their mean
    densities (.7651 at 40 %, .3984 at 80 %) are those of a geometric ramp between their steps
    within .0015, and within .0003 where every 75 steps what is due 75 steps later is pruned; the
    cubic ramp that spec C2 assumes would give .7255 and .3605.
    ``curve="cubic"`` is that assumption, with its goldens.
    """
    return GMP(sparsity=sparsity, **{**JOURNEY, **changes})
