"""Methods on 5000 digits of MNIST with LeNet-5, each at its best learning rate.

python -m experiments.methods_mnist5k.run lenet5
"""

from __future__ import annotations

from pathlib import Path

from experiments import tuned

if __name__ == "__main__":
    tuned.main(Path(__file__).parent, __doc__)
