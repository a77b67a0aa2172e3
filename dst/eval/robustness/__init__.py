"""How robust a classifier is: attacks, corrupted inputs, calibration, adversarial distance."""

from __future__ import annotations

from dst.eval.calibration import calibration_error as calibration_error
from dst.eval.robustness.corruptions import blurred as blurred
from dst.eval.robustness.corruptions import noisy as noisy
from dst.eval.robustness.distance import adversarial_distance as adversarial_distance
from dst.eval.robustness.judge import Robustness as Robustness
from dst.eval.robustness.judge import judge as judge
from dst.eval.robustness.judge import right_under as right_under
from dst.train.attacks import FGSM as FGSM
from dst.train.attacks import PGD as PGD
from dst.train.attacks import Ball as Ball

__all__ = [
    "FGSM",
    "PGD",
    "Ball",
    "Robustness",
    "adversarial_distance",
    "blurred",
    "calibration_error",
    "judge",
    "noisy",
    "right_under",
]
