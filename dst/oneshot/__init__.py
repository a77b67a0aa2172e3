"""Pruning trained models without training."""

from dst.oneshot.finished import Pruned
from dst.oneshot.leaves import Progress
from dst.oneshot.loss import Gradients, divergence
from dst.oneshot.matrix import Matrix, OneShot
from dst.oneshot.network import DataAllocator, Network
from dst.oneshot.stages import StagePlan
from dst.oneshot.statistics import Statistics

__all__ = [
    "DataAllocator",
    "Gradients",
    "Matrix",
    "Network",
    "OneShot",
    "Progress",
    "Pruned",
    "StagePlan",
    "Statistics",
    "divergence",
]
