"""Lottery tickets on digits: accuracy against remaining weights, five seeds.

python -m experiments.digits_lottery.run
"""

from __future__ import annotations

from pathlib import Path

from experiments import lottery

HERE = Path(__file__).parent

if __name__ == "__main__":
    lottery.main(HERE, HERE.parents[1] / "configs" / "digits" / "lottery.yaml")
