"""What a sparse network costs: multiply-adds, bytes, and training relative to dense training.

    costs = dst.flops.trace(forward, params, images)   # shapes suffice, nothing is computed
    costs.forward({"hidden/kernel": 0.9}) / costs.forward()
    costs.training(tx.plan(params), steps=10_000).relative

The figures count what a program would do that skips every zero. A mask over a dense array skips
none: they compare methods, and say nothing of the time that a step takes.
"""

from dst.engine.usage import sparsity_at_end
from dst.flops.costs import CONVENTIONS, Costs, LeafCost, Training, trace

__all__ = ["CONVENTIONS", "Costs", "LeafCost", "Training", "sparsity_at_end", "trace"]
