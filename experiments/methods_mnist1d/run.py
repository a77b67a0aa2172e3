"""Every method on MNIST-1D, each at its best learning rate.

python -m experiments.methods_mnist1d.run mlp
python -m experiments.methods_mnist1d.run cnn
"""

from __future__ import annotations

from pathlib import Path

from experiments import tuned
from experiments.methods import METHODS

DEFAULTS = {
    "cnn": {  # its runs take one after the other, 3 to 5 seconds each
        "sparsities": (0.5, 0.8, 0.9, 0.95, 0.98),
        "adamw": (3e-3, 1e-2, 3e-2, 1e-1),
        "momentum": (0.03, 0.1, 0.3, 1.0),
        # Signals have one channel, which blocks of four inputs do not divide.
        "methods": [name for name in METHODS if "blocks" not in name],
    }
}

if __name__ == "__main__":
    tuned.main(Path(__file__).parent, __doc__, DEFAULTS)
