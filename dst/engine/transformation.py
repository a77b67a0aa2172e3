"""What a sparse transformation is: an Optax transformation that can show its plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import optax

from dst.core.tree import flatten
from dst.core.typing import Array, OptState, Params, PyTree
from dst.engine.plan import Plan
from dst.rules.derivatives import Derivative
from dst.rules.latent import Latent
from dst.rules.method import Method
from dst.rules.rule import Rule


class Packed(Protocol):
    """How a transformation runs on packed values: :class:`dst.engine.packed.PackedMasks`."""

    def pack(self, params: Params) -> tuple[PyTree, OptState]:
        """Values and state before the first step."""

    def packed(self, params: Params, state: Any) -> tuple[PyTree, OptState]:
        """Values and state, from those of the masked form at the same step."""

    def masked_state(self, state: Any) -> OptState:
        """The state of the masked form at the same step."""

    def retopologise(
        self, grads: PyTree, state: Any, values: PyTree, extra: dict[str, Any]
    ) -> tuple[PyTree, OptState]:
        """A topology step."""


class SparseTransformation(optax.GradientTransformationExtraArgs):
    """What :func:`dst.sparsify` returns: an Optax transformation that can show its plan.

    Attributes:
      method: as it was given.
      rule: the method with all durations in optimizer steps.
      plan: ``plan(params)`` is the start table: every leaf, what it is and why; printable.
      update_weights: whether the inner optimizer takes a step at topology steps.
      selects_every_step: whether masks may change at other steps than topology steps.
      scale: how initial weights and learning rates follow the density; None: they do not.
      packed: how it runs on packed values; None in the masked form.
      derivative: what stands in the place of the gradient at topology steps; None: nothing does.
    """

    method: Method | Rule | Latent
    rule: Rule | Latent
    plan: Callable[[Params], Plan]
    update_weights: bool
    selects_every_step: bool
    scale: str | None
    packed: Packed | None
    derivative: Derivative | None

    def fires(self, count: int) -> bool:
        """Whether the update after ``count`` updates is a topology step."""
        return self.rule.fires(count)

    def topology_gradients(self, function: Callable[[Params], Array], params: Params) -> Params:
        """What ``update`` takes as ``grads`` at a topology step.

        For most methods that is the gradient of the loss. GraSP takes the product of the Hessian
        and the gradient, as if the leaves that stay dense were constants, of a loss whose logits
        are divided by ``derivative.temperature``. SynFlow takes the gradient of the sum of all
        outputs with respect to the sizes of the weights, for one input of ones; ``derivative.of``
        is ``"ones"`` then.

        Args:
          function: of the parameters: the loss, a scalar; where ``derivative.of`` is ``"ones"``,
            the outputs of the network for one input of ones, of any shape.
          params: at the step.

        Example:
          >>> import dst, jax.numpy as jnp, optax
          >>> tx = dst.sparsify(optax.sgd(0.1), dst.GraSP(0.5))
          >>> tx.topology_gradients(lambda p: jnp.sum(p["w"] ** 3), {"w": jnp.ones((2, 2))})["w"][0]
          Array([18., 18.], dtype=float32)
        """
        if self.derivative is None:
            return jax.grad(function)(params)
        paths, sparse = flatten(params)[0], self.plan(params).sparse
        return self.derivative.take(function, params, [path in sparse for path in paths])

    def retopologise(
        self, grads: PyTree, opt_state: OptState, values: PyTree, **extra: Any
    ) -> tuple[PyTree, OptState]:
        """A topology step in the packed form.

        Args:
          grads: with respect to the parameters of ``dst.unpack(values, opt_state)``.
          opt_state, values: before the step.
          extra: arguments for the inner optimizer.

        Returns:
          Values and state after it. Where the method takes an optimizer step at topology steps,
          that is done, too.

        Raises:
          ValueError: the masked form, or a method whose masks never change.
        """
        if self.packed is None or self.rule.when is None:
            what = "the masked form" if self.packed is None else "a method without topology steps"
            raise ValueError(
                f"retopologise: expected the packed form of a method that changes "
                f"masks, got {what}."
            )
        return self.packed.retopologise(grads, opt_state, values, extra)


def around(tx: SparseTransformation, outer: optax.GradientTransformation) -> SparseTransformation:
    """``outer``, which wraps ``tx``, with the plan and the schedule of ``tx``."""
    outer = optax.with_extra_args_support(outer)
    whole = _like(tx, outer.init, outer.update)
    whole.packed = None
    return whole


def with_state(tx: SparseTransformation, state: OptState) -> SparseTransformation:
    """``tx``, whose ``init`` returns a state that there is already."""
    return _like(tx, lambda params: state, tx.update)


def _like(tx: SparseTransformation, init: Any, update: Any) -> SparseTransformation:
    whole = SparseTransformation(init, update)
    whole.method, whole.rule, whole.plan = tx.method, tx.rule, tx.plan
    whole.update_weights, whole.selects_every_step = tx.update_weights, tx.selects_every_step
    whole.scale, whole.packed, whole.derivative = tx.scale, tx.packed, tx.derivative
    return whole
