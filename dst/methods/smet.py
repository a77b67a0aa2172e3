"""SMET (2026): dynamic sparse training of language models under Adam."""

from __future__ import annotations

from typing import Any

from dst.methods.set import SET
from dst.rules.method import named, preset

# Random growth among weights that were inactive; moments of grown weights at zero, their own
# step count, and updates that ramp up over 100 steps.
SMET = {
    "allocation": "uniform",
    "drop_fraction": 0.2,
    "every": 100,
    "stop": "100%",
    "decay": "cosine",
    "end_drop_fraction": 0.005,
    "rounding": "ceil",
    "regrow": "forbid",
    "regrow_value": "zero",
    "cold_start": 100,
}


@named("smet", kind="drop and grow")
@preset(SET, SMET)
def smet(sparsity: float, **changes: Any) -> SET:
    """SET with SMET's settings: f from 0.2 to 0.005 over the run, dT = 100.

    No connection grows back at the step that drops it. Updates of grown weights scale with
    ``min(age / 100, 1)``.

    ``structure=dst.Block(h, w)`` gives its block form.

    References:
      SMET (arXiv 2606.00888), which names Adam's cold start as what destabilises sparse training
      of language models.

    Checked against: QiaoXiao7282/SMET at 6a94b79, sparselearning/core_dst.py and optimizer_dst.py
    (moments, step counts, ramp), and scripts/train_script.sh at 3545b5f; the paper's abstract;
    tests/methods/test_random_cases.py::test_smet_equals_its_authors_code.
    Differs from the code: the ramp scales updates (the code scales the stored first moment, which
    barely ramps), over 100 steps (the script has 10); the first update of a grown weight counts as
    its first, there as its second; masks start with exact counts; the learning rate is not scaled
    by density; blocks have two dimensions.
    """
    return SET(sparsity=sparsity, **{**SMET, **changes})
