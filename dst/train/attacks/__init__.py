"""Attacks: small changes of inputs that raise a loss, for training and for evaluation."""

from __future__ import annotations

from dst.train.attacks.ball import Ball as Ball
from dst.train.attacks.fgsm import FGSM as FGSM
from dst.train.attacks.network import as_function as as_function
from dst.train.attacks.pgd import PGD as PGD

__all__ = ["FGSM", "PGD", "Ball", "as_function"]
