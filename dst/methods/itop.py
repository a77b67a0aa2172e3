"""ITOP (Liu et al. 2021): settings of SET and RigL under which many connections are tried."""

from __future__ import annotations

from typing import Any

from dst.methods.rigl import RigL
from dst.methods.set import SET
from dst.rules.method import named, preset

# In-time over-parameterisation: long intervals, no freeze, a slowly decaying drop fraction, so
# that R_s grows large. Settings: README.md (intervals) and sparselearning/core.py (drop fraction)
# of Shiweiliuiiiiiii/In-Time-Over-Parameterization at 1b6a89e.
_ITOP = {"drop_fraction": 0.5, "stop": "100%", "end_drop_fraction": 0.005, "rounding": "ceil"}
SET_ITOP = {**_ITOP, "every": 1500, "decay": "cosine"}
RIGL_ITOP = {**_ITOP, "every": 4000, "update_weights": True}


@named("set-itop", kind="drop and grow")
@preset(SET, SET_ITOP)
def set_itop(sparsity: float, **changes: Any) -> SET:
    """SET with ITOP's settings: dT = 1500, drop fraction 0.5 to 0.005 over the whole run.

    References:
      Liu et al. 2021, "Do We Actually Need Dense Over-Parameterization?" (arXiv 2102.02887).

    Checked against: Shiweiliuiiiiiii/In-Time-Over-Parameterization at 1b6a89e, README.md and
    sparselearning/core.py; tests/methods/test_methods.py::test_itop_has_the_settings_of_its_paper.
    Differs from the code: random growth is exact where the
    code's Bernoulli draws let the count fluctuate.
    """
    return SET(sparsity=sparsity, **{**SET_ITOP, **changes})


@named("rigl-itop", kind="drop and grow")
@preset(RigL, RIGL_ITOP)
def rigl_itop(sparsity: float, **changes: Any) -> RigL:
    """RigL with ITOP's settings: dT = 4000, drop fraction 0.5 to 0.005 over the whole run.

    References:
      Liu et al. 2021, "Do We Actually Need Dense Over-Parameterization?" (arXiv 2102.02887).

    Checked against: Shiweiliuiiiiiii/In-Time-Over-Parameterization at 1b6a89e, README.md and
    sparselearning/core.py; tests/methods/test_methods.py::test_itop_has_the_settings_of_its_paper.
    Differs from the code: connections are exchanged before the optimizer step of their gradient,
    not after it; masks start with exact counts.
    """
    return RigL(sparsity=sparsity, **{**RIGL_ITOP, **changes})
