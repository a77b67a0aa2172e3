"""What a sparse transformation is: an Optax transformation that can show its plan."""

from __future__ import annotations

from collections.abc import Callable

import optax

from dst.core.typing import Params
from dst.engine.plan import Plan
from dst.rules.latent import Latent
from dst.rules.method import Method
from dst.rules.rule import Rule


class SparseTransformation(optax.GradientTransformationExtraArgs):
    """What :func:`dst.sparsify` returns: an Optax transformation that can show its plan.

    Attributes:
      method: as it was given.
      rule: the method with all durations in optimizer steps.
      plan: ``plan(params)`` is the start table: every leaf, what it is and why; printable.
      update_weights: whether the inner optimizer takes a step at topology steps.
      selects_every_step: whether masks may change at other steps than topology steps.
      scale: how initial weights and learning rates follow the density; None: they do not.
    """

    method: Method | Rule | Latent
    rule: Rule | Latent
    plan: Callable[[Params], Plan]
    update_weights: bool
    selects_every_step: bool
    scale: str | None

    def fires(self, count: int) -> bool:
        """Whether the update after ``count`` updates is a topology step."""
        return self.rule.fires(count)


def around(tx: SparseTransformation, outer: optax.GradientTransformation) -> SparseTransformation:
    """``outer``, which wraps ``tx``, with the plan and the schedule of ``tx``."""
    outer = optax.with_extra_args_support(outer)
    whole = SparseTransformation(outer.init, outer.update)
    whole.method, whole.rule, whole.plan = tx.method, tx.rule, tx.plan
    whole.update_weights, whole.selects_every_step = tx.update_weights, tx.selects_every_step
    whole.scale = tx.scale
    return whole
