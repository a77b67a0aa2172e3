"""Soft thresholds after an optimizer's step: small values become exactly zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from dst.core import checks, tree
from dst.core.patterns import chosen, require_matches
from dst.core.typing import Array, OptState, Params, PyTree


class SoftThresholdState(NamedTuple):
    """The state of :func:`soft_threshold`.

    Attributes:
      count: int32, updates done.
      inner_state: of the wrapped optimizer.
    """

    count: Array  # type: ignore[assignment]
    inner_state: OptState


def soft_threshold(
    inner: optax.GradientTransformation,
    amount: float | Callable[[Array], Any],
    select: str | Sequence[str] = "**/gate",
) -> optax.GradientTransformationExtraArgs:
    """Shrinks some leaves after every step: ``p = sign(p) max(|p| - amount, 0)``, as SoRA does.

    What is not above the amount is exactly zero. The amount is not multiplied by the learning rate.

    Args:
      inner: an Optax optimizer.
      amount: >= 0, or a schedule of the count of updates.
      select: patterns of leaf paths, at least one; the gates of ``dst.nnx.add_lora(gate=True)``.

    Raises:
      ValueError: a negative amount; no pattern; from ``init`` patterns that match nothing; from
        ``update`` without parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = soft_threshold(optax.sgd(1.0), 0.25, "gate")
      >>> params = {"gate": jnp.array([1.0, -0.5, 0.25])}
      >>> updates, _ = tx.update({"gate": jnp.zeros(3)}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["gate"].tolist()
      [0.75, -0.25, 0.0]

    References: Ding et al. 2023, "Sparse low-rank adaptation of pre-trained language models"
    (arXiv 2311.11696).
    Checked against: TsinghuaC3I/SoRA, src/sparse_optimizer.py, by numbers worked out by hand:
    tests/engine/test_soft_threshold.py.
    Differs from its code: there, what equals the amount stays. What is between the amount and twice
    the amount is first shrunk and then set to zero.
    """
    if not callable(amount):
        checks.at_least_zero("amount of soft_threshold", amount)
    patterns = [select] if isinstance(select, str) else list(select)
    checks.not_empty("select of soft_threshold", patterns)
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> SoftThresholdState:
        paths = tree.flatten(params)[0]
        require_matches("select", [p.removeprefix("!") for p in patterns], paths)
        return SoftThresholdState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(
        grads: PyTree, state: SoftThresholdState, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, SoftThresholdState]:
        if params is None:
            raise ValueError(
                "soft_threshold needs the parameters: call tx.update(grads, opt_state, params)."
            )
        updates, inner_state = inner.update(grads, state.inner_state, params, **extra)
        least = amount(state.count) if callable(amount) else amount
        paths, weights, treedef = tree.flatten(params)
        moves = treedef.flatten_up_to(updates)
        result = [
            _shrunk(w, u, least) if chosen(patterns, path) else u
            for path, w, u in zip(paths, weights, moves, strict=True)
        ]
        return treedef.unflatten(result), SoftThresholdState(state.count + 1, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _shrunk(weight: Array, move: Array, amount: Any) -> Array:
    """The update after which the weight is the shrunk one; exactly ``-w`` where that is zero."""
    new = weight + move
    smaller = jnp.sign(new) * (jnp.abs(new) - amount)
    # What is not a number must stay so, as otherwise nobody sees that a gradient was.
    return jnp.where(jnp.abs(new) <= amount, -weight, smaller - weight).astype(weight.dtype)
