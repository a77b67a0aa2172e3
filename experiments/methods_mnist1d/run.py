"""Every method on MNIST-1D, each at its best learning rate.

python -m experiments.methods_mnist1d.run mlp
python -m experiments.methods_mnist1d.run cnn
"""

from __future__ import annotations

from pathlib import Path

from experiments import tuned

if __name__ == "__main__":
    tuned.main(Path(__file__).parent, __doc__)
