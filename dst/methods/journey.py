"""The Journey Matters (Jin et al. 2025): when to prune while pre-training."""

from __future__ import annotations

from typing import Any

from dst.methods.gmp import GMP
from dst.rules.method import named, preset

# See journey.
JOURNEY = {"curve": "geometric", "compute": True, "start": "25%", "stop": "75%"}


@named("journey", kind="gradual pruning")
@preset(GMP, JOURNEY)
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

    Checked against: tjingrant/sparse-llm-code at 78688d4, MaxText/train.py
    (calculate_per_step_sparsity: a geometric curve); the abstract (25 % and 75 %); the model cards
    of huggingface.co/tjingrant/sparsellm-1b-40p and -80p. Their mean densities, .7651 and .3984,
    are those of a geometric ramp between their steps within .0015; a cubic one gives .7255 and
    .3605:
    tests/methods/test_goldens.py::test_the_published_runs_of_sparsellm_pruned_at_a_constant_rate.
    tests/methods/test_random_cases.py::test_the_journey_over_all_layers_equals_its_authors_code.
    Differs from the code: every layer keeps the same share (``allocation="global"`` ranks all
    layers together, as there); nothing is pruned at ``start`` itself, so the curve runs one
    interval later.
    """
    return GMP(sparsity=sparsity, **{**JOURNEY, **changes})
