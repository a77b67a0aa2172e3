"""The methods of the comparison tables, by the names of their rows, with the papers' settings.

Numbers of steps are scaled to trainings of 4000 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dst

E100: dict[str, Any] = {"every": 100, "stop": "75%"}

METHODS: dict[str, Callable[[float], Any]] = {
    "Dense": lambda s: dst.Dense(),
    "Dense, momentum": lambda s: dst.Dense(),
    "Static": lambda s: dst.Static(s),
    "SNIP": lambda s: dst.SNIP(s),
    "SET": lambda s: dst.SET(s, decay="cosine", **E100),
    "SET-ITOP": lambda s: dst.set_itop(s, every=200),
    "SMET": lambda s: dst.smet(s, allocation="erk"),
    "MEST (EM)": lambda s: dst.MEST(
        s, extra=((1 - s) / 5, (1 - s) / 10, 0.0), every=100, allocation="erk"
    ),
    "MEST (EM&S)": lambda s: dst.MEST(
        s, extra=((1 - s) / 2, (1 - s) / 4, 0.0), every=100, soft_bound=True, allocation="erk"
    ),
    "RigL": lambda s: dst.RigL(s, every=100),
    "RigL, momentum": lambda s: dst.RigL(s, every=100),
    "RigL, 8 gradients": lambda s: dst.RigL(s, every=100, accumulate=8),
    "RigL-ITOP": lambda s: dst.rigl_itop(s, every=200),
    "RigL, 4 x 2 blocks": lambda s: dst.RigL(s, every=100, structure=dst.Block(4, 2)),
    "SRigL": lambda s: dst.SRigL(s, every=100),
    "SRigL, no ablation": lambda s: dst.SRigL(s, every=100, gamma=0.0),
    "SNFS": lambda s: dst.SNFS(s, every=100, allocation="erk"),
    "Top-KAST": lambda s: dst.TopKAST(s, max(2 * s - 1, 0.0), allocation="erk"),
    "Top-k weights": lambda s: dst.TopKWeights(s, allocation="erk"),
    "Edge-popup": lambda s: dst.EdgePopup(s, allocation="erk"),
    "GMP, ERK": lambda s: dst.GMP(s, allocation="erk"),
    "GMP, ERK, momentum": lambda s: dst.GMP(s, allocation="erk"),
    "GMP, uniform": lambda s: dst.GMP(s),
    "GMP, global": lambda s: dst.GMP(s, allocation="global"),
    "GMP, LAMP": lambda s: dst.GMP(s, allocation="lamp"),
    "GMP, 25-75 % of compute": lambda s: dst.journey(s, allocation="global"),
    "GraNet": lambda s: dst.GraNet(s, every=100),
    "AC/DC": lambda s: dst.ACDC(s),
    "AC/DC, momentum": lambda s: dst.ACDC(s),
}
# What depends on the sparsity lies in the program here (for "compute", when topology steps are), so
# one program serves one sparsity.
ONE_BY_ONE = {"Dense", "Dense, momentum", "Top-KAST", "SNIP", "GMP, 25-75 % of compute"}
# Trained by SGD with momentum: AC/DC as its authors do, the others to tell method from optimizer.
MOMENTUM = {"Dense, momentum", "RigL, momentum", "GMP, ERK, momentum", "AC/DC, momentum"}
