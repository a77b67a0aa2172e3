"""ADMM: dense weights that training pulls, step by step, towards a sparse copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import lax

from dst.core import checks, tree
from dst.core.roles import Role
from dst.core.selection import top_k_masks
from dst.core.typing import Array, OptState, Params, PyTree
from dst.engine.flat import Flat
from dst.engine.latent_plan import plan_of
from dst.engine.plan import Planner
from dst.rules.allocation import Allocator
from dst.rules.latent import Latent
from dst.rules.structure import Structure, Unstructured

_WEIGHTS = Unstructured()


class ADMMState(NamedTuple):
    """The state of :func:`admm`.

    Attributes:
      count: int32, updates done.
      split: float32 by leaf, the sparse copy ``z``; ``MaskedNode`` for dense leaves.
      dual: float32 by leaf, the scaled multipliers ``u``.
      inner_state: of the wrapped optimizer.
    """

    count: Array  # type: ignore[assignment]
    split: PyTree
    dual: PyTree
    inner_state: OptState


def admm(
    inner: optax.GradientTransformation,
    sparsity: float,
    *,
    penalty: float = 0.01,
    every: int = 32,
    allocation: str | Allocator = "uniform",
    structure: Structure = _WEIGHTS,
    select: tree.Select | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    stacked: Mapping[str, int] | None = None,
    axes: Mapping[str, str] | None = None,
    roles: Mapping[str, Role] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that dense weights end near sparse ones: ELSA, after its code.

    The loss is minimised under ``w = z`` with sparse ``z``. ``g + penalty (w - z + u)`` replaces
    the gradient. After every ``every`` updates::

        z = the largest of |w + u|, zero elsewhere
        u = u + w - z

    At the beginning ``z`` has the largest weights and ``u`` is zero. The weights stay dense. At the
    end prune them by :func:`dst.prune` with the same sparsity, allocation and structure: it is the
    same projection.

    Args:
      inner: any Optax optimizer.
      sparsity: of ``z``, in [0, 1).
      penalty: > 0.
      every: updates between two of ``z`` and ``u``, >= 1.
      allocation: of the sparsity; one that divides it by shapes.
      structure, select, overrides, stacked, axes, roles: as for :func:`dst.sparsify`.

    Raises:
      ValueError: here or from ``init``, naming the leaf or argument at fault; from ``update``
        without parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = admm(optax.sgd(0.1), 0.5, penalty=1.0, every=1)
      >>> params = {"w": jnp.array([[2.0], [1.0]])}
      >>> updates, state = tx.update({"w": jnp.zeros((2, 1))}, tx.init(params), params)
      >>> updates["w"].tolist(), state.split["w"].tolist()
      ([[-0.0], [-0.10000000149011612]], [[2.0], [0.0]])

    References: Lee et al. 2025, "The unseen frontier: pushing the limits of LLM sparsity with
    surrogate-free ADMM" (arXiv 2510.01650).
    Checked against: hyeondo-jang/prune_lora at 0118aa8, lib/optimizers.py (ADMM), code of one of
    its authors, by a twin in NumPy: tests/engine/test_admm.py.
    Differs from the code: its projection without importances and its constant penalty; counts are
    exact; ``z`` and ``u`` are float32. The code renews them after the first update, too.
    """
    checks.above_zero("penalty of admm", penalty)
    checks.integer("every of admm", every, at_least=1)
    rule = Latent(sparsity, structure, allocation)  # raises where these do not fit
    options = {
        "select": select,
        "overrides": overrides,
        "stacked": stacked,
        "axes": axes,
        "roles": roles,
    }
    planner = Planner(partial(plan_of, latent=rule), options)
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> ADMMState:
        flat = Flat(params, planner)
        weights = [w.astype(jnp.float32) for w in flat.sparse]
        split, dual = _projected(flat, weights), list(map(jnp.zeros_like, weights))
        count = jnp.zeros([], jnp.int32)
        return ADMMState(count, flat.tree(split), flat.tree(dual), inner.init(params))

    def update(
        grads: PyTree, state: ADMMState, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, ADMMState]:
        if params is None:
            raise ValueError("admm needs the parameters: call tx.update(grads, opt_state, params).")
        flat = Flat(params, planner)
        leaves = flat.gradients(grads)
        split, dual = flat.of(state.split), flat.of(state.dual)
        pulled = [
            g + (penalty * (w.astype(jnp.float32) - z + u)).astype(g.dtype)
            for g, w, z, u in zip(flat.pick(leaves), flat.sparse, split, dual, strict=True)
        ]
        updates, inner_state = inner.update(
            flat.rebuild(leaves, pulled), state.inner_state, params, **extra
        )
        moved = flat.pick(flat.leaves_of(optax.apply_updates(params, updates)))
        count = state.count + 1

        def turned() -> tuple[list[Array], list[Array]]:
            sums = [w.astype(jnp.float32) + u for w, u in zip(moved, dual, strict=True)]
            found = _projected(flat, sums)
            return found, [s - z for s, z in zip(sums, found, strict=True)]

        split, dual = lax.cond(count % every == 0, turned, lambda: (split, dual))
        return updates, ADMMState(count, flat.tree(split), flat.tree(dual), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _projected(flat: Flat, values: Sequence[Array]) -> list[Array]:
    """The nearest sparse arrays with the counts of the plan."""
    layouts = [p.layout for p in flat.plans]
    pooled = [x.pool(jnp.square(v)) for x, v in zip(layouts, values, strict=True)]
    wanted = [x.per_group(p.counts[0, 1]) for x, p in zip(layouts, flat.plans, strict=True)]
    axes = [x.group_axes for x in layouts]
    units = top_k_masks(pooled, wanted, [None] * len(pooled), axes)
    return [
        jnp.where(x.spread(u, v), v, jnp.zeros_like(v))
        for x, u, v in zip(layouts, units, values, strict=True)
    ]
