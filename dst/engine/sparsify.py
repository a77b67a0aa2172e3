"""``sparsify``: a sparse training method as one Optax transformation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from dst.core import checks, tree
from dst.core.roles import Role
from dst.core.typing import Array, ArrayLike, OptState, Params, PyTree
from dst.engine.hard import HardMasks
from dst.engine.latent import LatentWeights
from dst.engine.packed import PackedMasks
from dst.engine.plan import Planner
from dst.engine.scaling import SCALES
from dst.engine.state import SparsifyState
from dst.engine.transformation import SparseTransformation
from dst.rules.latent import Latent
from dst.rules.method import Method
from dst.rules.rule import Rule

FORMS = ("masked", "packed")


class Implementation(Protocol):
    """How a kind of rule runs inside Optax.

    There are two: :class:`dst.engine.hard.HardMasks` for rules that switch the weights
    themselves, :class:`dst.engine.latent.LatentWeights` for rules that derive them from other
    variables. Only ``engine/`` knows which one is in use.

    Attributes:
      update_weights: whether the inner optimizer takes a step at topology steps.
      selects_every_step: whether masks may change at other steps than topology steps.
      plan: ``plan(params)`` is the start table; its ``usage(steps)`` has mean sparsities.
    """

    update_weights: bool
    selects_every_step: bool
    plan: Planner

    @property
    def rule(self) -> Rule | Latent:
        """The rule, with all durations in optimizer steps."""

    def init(self, params: Params) -> SparsifyState:
        """The state before the first step."""

    def update(
        self,
        grads: PyTree,
        state: SparsifyState,
        params: Params,
        topology: bool | Array | None,
        extra: dict[str, Any],
    ) -> tuple[PyTree, SparsifyState]:
        """One step: updates of the parameters, and the state after it."""


def sparsify(
    inner: optax.GradientTransformation,
    method: Method | Rule | Latent,
    *,
    seed: int | Array = 0,
    steps: int | None = None,
    select: tree.Select | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    stacked: Mapping[str, int] | None = None,
    axes: Mapping[str, str] | None = None,
    roles: Mapping[str, Role] | None = None,
    initial: str | Mapping[str, ArrayLike] | None = None,
    scale: str | None = None,
    form: str = "masked",
) -> SparseTransformation:
    """Wraps an optimizer so that it trains a sparse network.

    Inactive weights are exactly ``0.0`` after every ``optax.apply_updates``: their update is
    ``-p``, and ``p + (-p)`` is zero for every finite ``p``. Topology steps drop and grow
    connections. Gradients and moments of inactive weights are zero, unless they are latent
    weights, which a method trains (:class:`dst.Reset` has details).

    Use it outermost. ``optax.MultiSteps``, ``apply_if_finite`` and ``partition`` may go around
    it. What rewrites updates (``scale``, ``lookahead``, ``schedule_free``, SAM) goes inside.
    Apply :func:`apply_masks` to averages of parameters before you evaluate them.

    Args:
      inner: any Optax optimizer.
      method: :class:`dst.RigL`, ..., a :class:`dst.Rule` or a :class:`dst.Latent`.
      seed: of every random choice. Equal seeds give equal masks on every device layout.
      steps: length of training in optimizer updates; resolves percentages such as ``"75%"``.
      select: which leaves are sparse; see :func:`dst.core.tree.survey`.
      overrides: settings per leaf pattern.
      stacked: leading axes that enumerate layers, per leaf pattern.
      axes: meaning of kernel axes, per leaf pattern.
      roles: what the modules of the model say of its leaves; see :func:`dst.roles`.
      initial: ``"random"``, ``"magnitude"`` (start from a dense checkpoint) or bool masks by leaf
        path, whose counts replace the allocation. None: the default of the method, mostly random.
      scale: ``"smupar"``: the updates of a sparse layer are divided by its density, and
        :func:`dst.scale_init` scales new weights, so that the best learning rate of an Adam-like
        optimizer is the same at every sparsity. None: neither.

      form: ``"masked"``: dense arrays with zeros. ``"packed"``: only active weights are stored, and
        their moments and places; see :func:`dst.pack`. For methods that switch the weights
        themselves at known counts, and for optimizers that work entry by entry.

    Returns:
      A transformation. Its ``update`` takes ``topology``. ``None`` decides by the count of
      updates under ``lax.cond``. A Python ``True`` or ``False`` decides while tracing, so that a
      plain step compiles without selection.

    Raises:
      ValueError: from ``init`` or here, naming the leaf or argument at fault; also for
        ``optax.MultiSteps`` inside.

    Example:
      >>> import dst, optax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((4, 4)), "b": jnp.zeros(4)}
      >>> tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.5))
      >>> opt_state = tx.init(params)
      >>> params = dst.apply_masks(params, opt_state)
      >>> int((params["w"] != 0).sum())
      8
    """
    if isinstance(method, type) or not isinstance(method, (Rule, Latent, Method)):
        raise ValueError(
            "method must be a method such as dst.RigL(sparsity=0.9, ...), a dst.Rule or a "
            f"dst.Latent, got {method!r:.80}."
        )
    _check_seed(seed)
    if scale is not None:
        checks.one_of("scale", scale, SCALES)
    rule = method if isinstance(method, (Rule, Latent)) else method.rule(steps)
    options = {
        "select": select,
        "overrides": overrides,
        "stacked": stacked,
        "axes": axes,
        "roles": roles,
    }
    inner = optax.with_extra_args_support(inner)
    checks.one_of("form", form, FORMS)
    run: Implementation
    packed = None
    if form == "packed" and not isinstance(rule, Rule):
        raise ValueError(
            'form="packed" is not for a method with latent weights. Use form="masked".'
        )
    if isinstance(rule, Rule):
        run = HardMasks(inner, rule, seed, options, initial, scale)
        if form == "packed":
            run = packed = PackedMasks(run)
    else:
        run = LatentWeights(inner, rule, seed, options, initial, scale)

    derivative = rule.which.derivative if isinstance(rule, Rule) else None

    def update(
        grads: PyTree,
        state: SparsifyState,
        params: Params | None = None,
        *,
        topology: bool | Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, SparsifyState]:
        if params is None:
            raise ValueError(
                "sparsify needs the parameters: call tx.update(grads, opt_state, params). "
                "They hold the weights that topology steps rank and that updates set to zero."
            )
        if not isinstance(state, SparsifyState):
            raise ValueError(
                f"expected the state of tx.init(params), a SparsifyState, got a "
                f"{type(state).__name__}. Restore a saved state into that of tx.init(params)."
            )
        if topology is None and derivative is not None:
            raise ValueError(
                "topology=None: this method looks at something else than gradients at its topology "
                "steps. Where tx.fires(count), give tx.topology_gradients(...) as gradients and "
                "topology=True; at other steps topology=False."
            )
        return run.update(grads, state, params, topology, extra)

    def init(params: Params) -> SparsifyState:
        state = run.init(params)
        _refuse_accumulation(state.inner_state)
        return state

    tx = SparseTransformation(init, update)
    tx.method, tx.rule, tx.plan = method, run.rule, run.plan
    tx.update_weights, tx.selects_every_step = run.update_weights, run.selects_every_step
    tx.scale, tx.packed, tx.derivative = scale, packed, derivative
    return tx


def _check_seed(seed: int | Array) -> None:
    if isinstance(seed, jax.Array):
        if seed.shape == () and jnp.issubdtype(seed.dtype, jnp.integer):
            return
        raise ValueError(
            f"seed must be an integer scalar, got {seed.dtype}{list(seed.shape)}. Of a key, take "
            "for example jax.random.bits(key)."
        )
    checks.integer("seed", seed, at_least=0, at_most=2**32 - 1)


def _refuse_accumulation(inner_state: OptState) -> None:
    """Raises where the wrapped optimizer takes several calls for one update."""

    def accumulates(node: object) -> bool:
        return isinstance(node, optax.MultiStepsState)

    if any(map(accumulates, jax.tree.leaves(inner_state, is_leaf=accumulates))):
        raise ValueError(
            "optax.MultiSteps inside of sparsify would make masks change at micro-batches. Put it "
            "around: optax.MultiSteps(dst.sparsify(inner, method), n); with "
            "dst.nnx.Optimizer, say accumulate=n."
        )
