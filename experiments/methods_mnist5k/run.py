"""Methods on 5000 digits of MNIST with LeNet-5, each at its best learning rate.

python -m experiments.methods_mnist5k.run lenet5
"""

from __future__ import annotations

from pathlib import Path

from experiments import tuned

DEFAULTS = {
    "lenet5": {  # a run takes 20 seconds
        "seeds": 3,
        "sparsities": (0.9, 0.98, 0.99),
        "adamw": (1e-3, 3e-3, 1e-2),
        "momentum": (0.03, 0.1, 0.3),
        "methods": [
            "Dense",
            "Dense, momentum",
            "Static",
            "SNIP",
            "SET",
            "SMET",
            "MEST (EM&S)",
            "RigL",
            "RigL, momentum",
            "RigL-ITOP",
            "SRigL",
            "SNFS",
            "Top-KAST",
            "Top-k weights",
            "Edge-popup",
            "GMP, ERK",
            "GMP, ERK, momentum",
            "GMP, 25-75 % of compute",
            "GraNet",
            "AC/DC, momentum",
        ],
    }
}

if __name__ == "__main__":
    tuned.main(Path(__file__).parent, __doc__, DEFAULTS)
