"""The lottery study of MNIST-1D: accuracy against remaining weights, five seeds.

python -m experiments.mnist1d_lottery.run
"""

from __future__ import annotations

from pathlib import Path

from experiments import lottery

HERE = Path(__file__).parent

if __name__ == "__main__":
    lottery.main(HERE, HERE.parents[1] / "configs" / "mnist1d" / "lottery.yaml")
