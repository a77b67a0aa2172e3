"""Which parameters an optimizer leaves where they are, whatever their gradients."""

from __future__ import annotations

import jax
import optax
from jax.extend.core import Literal

from dst.core.typing import OptState, Params
from dst.engine.flat import Flat


def check_moving(
    inner: optax.GradientTransformationExtraArgs, state: OptState, params: Params, flat: Flat
) -> None:
    """Raises where masks of a leaf would change although its weights are frozen.

    Its weights would be dropped one after the other, and none would grow back.

    Args:
      inner: the wrapped optimizer.
      state: its state.
      params: the parameters.
      flat: the same, and their plans.
    """
    moving = _depends_on_gradients(inner, state, params)
    for path, moves in zip(flat.paths, moving, strict=False):
        if not moves and path in flat.sparse_paths:
            raise ValueError(
                f"{path} is frozen: its update does not depend on its gradient, but its mask would "
                f"change, and what is dropped would be lost. Leave it dense: select=['!{path}']."
            )


def _depends_on_gradients(
    inner: optax.GradientTransformationExtraArgs, state: OptState, params: Params
) -> list[bool]:
    """For each update, whether it can depend on a gradient; empty where nobody can say."""
    try:
        program = jax.make_jaxpr(lambda g, s, p: inner.update(g, s, p)[0])(params, state, params)
    except Exception:  # optimizers that need more than gradients
        return []
    jaxpr = program.jaxpr
    reached = set(jaxpr.invars[: len(jax.tree.leaves(params))])
    for equation in jaxpr.eqns:
        if any(not isinstance(x, Literal) and x in reached for x in equation.invars):
            reached.update(equation.outvars)
    return [not isinstance(x, Literal) and x in reached for x in jaxpr.outvars]
