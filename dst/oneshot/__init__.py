"""Pruning trained models without training."""

from dst.oneshot.leaves import Progress, Pruned
from dst.oneshot.matrix import Matrix, OneShot
from dst.oneshot.stages import StagePlan
from dst.oneshot.statistics import Statistics

__all__ = ["Matrix", "OneShot", "Progress", "Pruned", "StagePlan", "Statistics"]
