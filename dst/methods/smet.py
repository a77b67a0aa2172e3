"""SMET (2026): dynamic sparse training of language models under Adam."""

from __future__ import annotations

from typing import Any

from dst.methods.set import SET

# Random growth among weights that were inactive; moments of grown weights at zero, their own
# step count, and updates that ramp up over 100 steps. Spec A13 and N (smet_llm).
SMET = {
    "allocation": "uniform",
    "drop_fraction": 0.2,
    "every": 100,
    "stop": "100%",
    "decay": "cosine",
    "end_drop_fraction": 0.005,
    "regrow": "forbid",
    "regrow_value": "zero",
    "cold_start": 100,
}


def smet(sparsity: float, **changes: Any) -> SET:
    """SET with SMET's settings: f from 0.2 to 0.005 over the run, dT = 100, no connection comes
    straight back, and updates of grown weights scale with ``min(age / 100, 1)``.

    ``structure=dst.Block(h, w)`` gives its block form.

    References:
      SMET (arXiv 2606.00888), which names Adam's cold start as what destabilises sparse training
      of language models.

    Checked against: the abstract, and the code as described in spec A13.
    Differs from the code: the ramp scales updates (the code scales the stored first moment, which
    barely ramps); the learning rate is not scaled by density; blocks have two dimensions.
    """
    return SET(sparsity=sparsity, **{**SMET, **changes})
