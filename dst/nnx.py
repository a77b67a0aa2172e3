"""Flax NNX: models that carry their masks, and the optimizer that updates both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dst import flops
from dst.core import checks, extras
from dst.core.typing import Array, ArrayLike, Batch, OptState, Params, PyTree
from dst.engine.projection import apply_masks
from dst.engine.scaling import scale_init
from dst.engine.sparsify import sparsify
from dst.engine.state import SparsifyState
from dst.engine.transformation import around
from dst.inspect import invariants, metrics
from dst.methods.from_masks import FromMasks
from dst.oneshot import prune as oneshot
from dst.rules.latent import Latent
from dst.rules.method import Method
from dst.rules.rule import Rule

with extras.required():
    from flax import nnx

    from dst.core.roles.nnx import axes, owner, roles

__all__ = [
    "Mask",
    "Optimizer",
    "attach",
    "axes",
    "check_invariants",
    "costs",
    "detach",
    "masks",
    "prune",
]

_SUFFIX = "_mask"
_OTHER_SUFFIX = "_sparsity_mask"  # where the module has an attribute of the first name
_CONTAINERS = (nnx.Dict, nnx.List)  # what they hold, users iterate over

Filter: TypeAlias = Any  # which variables, as nnx.state reads it: a type, a predicate, or several


class Mask(nnx.Variable):
    """bool array beside a parameter ``w``, as ``w_mask``: True where a connection is active.

    The metadata ``parameter`` is the path of the parameter from the module that holds the mask.
    """


class Optimizer(nnx.Optimizer):
    """An ``nnx.Optimizer`` whose model is sparse and carries its masks.

    At creation inactive weights become zero and every sparse parameter ``kernel`` gets a variable
    ``kernel_mask`` beside it. Topology steps write the new masks there. They are copies of the
    masks in the optimizer state, so that a saved model contains its masks. Parameters in an
    ``nnx.Dict`` or ``nnx.List`` have their masks in the module around it, as ``layers_0_mask``.

    Args:
      model: an NNX module; changed in place.
      inner: any Optax optimizer.
      method: as for :func:`dst.sparsify`. ``FromMasks()`` takes the masks the model carries.
      wrt: which variables are trained.
      accumulate: micro-batches per update, >= 1. Their gradients are averaged by
        ``optax.MultiSteps``, and the update schedule counts updates.
      attach_masks: False leaves the model without mask variables, for loops that split by
        exhaustive filters or map over the whole state.
      graph: as in ``nnx.Optimizer``.
      options: ``seed``, ``steps``, ``select``, ``overrides``, ``stacked``, ``axes``, ``initial``
        and ``scale`` of :func:`dst.sparsify`. With ``scale`` the weights of the model are taken as
        new and scaled, too. The modules of the model are asked; see :func:`dst.roles`.

    Raises:
      ValueError: as :func:`dst.sparsify`; ``FromMasks()`` for a model that carries none.

    Example:
      >>> import dst.nnx, optax
      >>> from flax import nnx
      >>> model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
      >>> optimizer = dst.nnx.Optimizer(model, optax.adam(1e-3), dst.Static(sparsity=0.5))
      >>> int(model.kernel_mask.get_value().sum())
      16
    """

    def __init__(
        self,
        model: nnx.Module,
        inner: optax.GradientTransformation,
        method: Method | Rule | Latent,
        *,
        wrt: Filter = nnx.Param,
        accumulate: int = 1,
        attach_masks: bool = True,
        graph: bool | None = None,
        **options: Any,
    ):
        if isinstance(method, FromMasks) and method.masks is None:
            method = FromMasks(masks(model))
        checks.integer("accumulate", accumulate, at_least=1)
        tx = sparsify(inner, method, roles=roles(model, wrt), **options)
        if tx.scale is not None:
            nnx.update(model, scale_init(nnx.state(model, wrt, graph=graph), tx))
        if accumulate > 1:
            tx = around(tx, optax.MultiSteps(tx, accumulate).gradient_transformation())
        super().__init__(model, tx, wrt=wrt, graph=graph)
        self.opt_state = nnx.data(_together(self.opt_state))
        self.attach_masks = attach_masks
        params = nnx.state(model, wrt, graph=graph)
        nnx.update(model, apply_masks(params, self._arrays()))
        if attach_masks:
            attach(model, metrics.masks(self._arrays()))
        else:
            detach(model)

    def update(self, model: nnx.Module, grads: PyTree, /, **kwargs: Any) -> PyTree:
        """One optimizer step; ``topology`` as in :func:`dst.sparsify`, other extras go inside."""
        params, grads, options = map(nnx.as_pure, (self._of(model), self._of(grads), kwargs))
        updates, opt_state = self.tx.update(grads, self._arrays(), params, **options)
        nnx.update(model, optax.apply_updates(params, updates))
        jax.tree.map(
            lambda variable, value: variable.set_value(value),
            self.opt_state,
            opt_state,
            is_leaf=lambda x: isinstance(x, nnx.Variable),
        )
        self.step[...] += 1
        # Latent-weight methods may choose at every step, whatever the flag says.
        steady = kwargs.get("topology") is False and not self.tx.selects_every_step
        if self.attach_masks and not steady:
            for path, mask in metrics.masks(self._arrays()).items():
                holder, name, _ = _holder(model, path)
                if not hasattr(holder, name):
                    raise ValueError(
                        f"{path}: the model carries no mask any more (dst.nnx.detach). Create the "
                        "optimizer again, or with attach_masks=False."
                    )
                getattr(holder, name).set_value(mask)
        return updates

    def _of(self, nodes: PyTree) -> PyTree:
        return nnx.state(nodes, self.wrt, graph=self.graph)

    def _arrays(self) -> OptState:
        return nnx.as_pure(self.opt_state)


def _together(opt_state: OptState) -> OptState:
    """The same with the numbers of all leaves in few variables: ``nnx.jit`` looks at each variable
    in every call, which takes longer than a step of a small model."""

    def sparse(node: Any) -> bool:
        return isinstance(node, SparsifyState)

    def together(node: Any) -> Any:
        if not sparse(node):
            return node
        kind = type(node.count)
        names = ["active", "hyper", "topology"]
        if not jax.tree.leaves(node.variables):
            names.append("variables")
        small = {name: kind(nnx.as_pure(getattr(node, name))) for name in names}
        return node._replace(inner_state=_together(node.inner_state), **small)

    return jax.tree.map(
        together, opt_state, is_leaf=lambda x: sparse(x) or isinstance(x, nnx.Variable)
    )


def masks(model: nnx.Module) -> dict[str, np.ndarray]:
    """The masks that a model carries, by the leaf path of their parameter.

    Raises:
      ValueError: there are none.
    """
    carried = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, Mask)):
        *around, name = map(str, path)
        inner_path = variable.get_metadata().get("parameter", name.removesuffix(_SUFFIX))
        carried["/".join([*around, inner_path])] = np.asarray(variable.get_value())
    if not carried:
        raise ValueError(
            "this model carries no masks. Create them with dst.nnx.Optimizer(model, ...), or use "
            "FromMasks(masks=...)."
        )
    return carried


def attach(model: nnx.Module, masks: Mapping[str, ArrayLike]) -> None:
    """Lets a model carry masks, in place of those that it has; parameters stay as they are.

    Args:
      model: an NNX module; changed in place.
      masks: bool arrays by the leaf path of their parameter, such as :func:`dst.load_masks` reads.

    Raises:
      ValueError: a path that is none of the model's, or a mask of another shape.
    """
    detach(model)
    shapes = {
        "/".join(map(str, key)): tuple(variable.get_value().shape)
        for key, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    for path, mask in masks.items():
        shape = shapes.get(path)
        if shape != jnp.shape(mask):
            found = "no such parameter" if shape is None else f"a parameter of shape {shape}"
            raise ValueError(
                f"masks: expected {path} of shape {jnp.shape(mask)} in the model, found {found}."
            )
        holder, name, inner_path = _holder(model, path)
        setattr(holder, name, Mask(jnp.asarray(mask, bool), parameter=inner_path))


def detach(model: nnx.Module) -> None:
    """Removes all mask variables from a model, in place."""
    for _, module in nnx.iter_modules(model):
        for name, value in list(vars(module).items()):
            if isinstance(value, Mask):
                delattr(module, name)


def check_invariants(model: nnx.Module, optimizer: nnx.Optimizer) -> None:
    """:func:`dst.check_invariants`, and that the model's masks equal the optimizer's.

    Raises:
      InvariantError: with one line for each thing that is wrong.
    """
    arrays = nnx.as_pure(optimizer.opt_state)
    invariants.check_invariants(arrays, nnx.state(model, optimizer.wrt))
    if not jax.tree.leaves(nnx.state(model, Mask)):
        return
    copies = masks(model)
    truth = {path: np.asarray(mask) for path, mask in metrics.masks(arrays).items()}
    wrong = [
        f"{path}: the mask of the model is not the optimizer's"
        for path in sorted(copies.keys() | truth.keys())
        if not np.array_equal(copies.get(path, 0), truth.get(path, 0))
    ]
    if wrong:
        raise invariants.InvariantError("\n".join(wrong))


def costs(
    model: nnx.Module, *inputs: PyTree, wrt: Filter = nnx.Param, **options: Any
) -> flops.Costs:
    """:func:`dst.flops.trace` of a call of an NNX model, which stays as it is.

    Args:
      model: of arrays, or of shapes as ``nnx.eval_shape`` returns it.
      inputs: arrays or shapes; give a batch of one.
      wrt: the variables that count as parameters.
      options: static keyword arguments of the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> model = nnx.eval_shape(lambda: nnx.Linear(8, 4, rngs=nnx.Rngs(0)))
      >>> costs(model, jax.ShapeDtypeStruct((1, 8), jnp.float32)).leaves["kernel"].macs
      32
    """
    graph, *states = nnx.split(model, wrt, ...)

    def forward(params: Params, rest: PyTree, *inputs: PyTree) -> PyTree:
        return nnx.merge(graph, params, rest)(*inputs, **options)

    return flops.costs.trace_with_state(forward, *states, *inputs)


def prune(
    model: nnx.Module,
    sparsity: float,
    *,
    forward: Callable[[nnx.Module, Batch], PyTree] | None = None,
    batches: Iterable[Batch] | None = None,
    wrt: Filter = nnx.Param,
    attach_masks: bool = True,
    **options: Any,
) -> dict[str, Array]:
    """:func:`dst.prune` of an NNX model, in place; its modules say which leaves are kernels.

    Args:
      model: an NNX module; changed in place.
      sparsity: of the selected weights, in [0, 1).
      forward: ``forward(model, batch)``; None: ``model(batch)``. Call ``model.eval()`` before, so
        that dropout and running statistics rest.
      batches: calibration data.
      wrt: the variables that count as parameters.
      attach_masks: whether the model carries the masks afterwards, for ``FromMasks()``.
      options: of :func:`dst.prune`: ``method``, ``structure``, ``allocation``, ``select``, ...

    Returns:
      bool masks by leaf path.

    Raises:
      ValueError: as :func:`dst.prune`.

    Example:
      >>> import dst.nnx, jax.numpy as jnp
      >>> from flax import nnx
      >>> model, x = nnx.Linear(8, 4, rngs=nnx.Rngs(0)), jnp.ones((16, 8))
      >>> masks = dst.nnx.prune(model, 0.5, method=dst.Wanda(), batches=[x])
      >>> int((model.kernel[...] != 0).sum())
      16
    """
    graph, *states = nnx.split(model, wrt, ...)
    params, rest = states

    def run(params: Params, batch: Batch) -> PyTree:
        merged = nnx.merge(graph, params, rest)
        return merged(batch) if forward is None else forward(merged, batch)

    options = {"roles": roles(model, wrt), **options}
    new, masks = oneshot.prune(params, sparsity, forward=run, batches=batches, **options)
    nnx.update(model, new)
    if attach_masks and masks:
        attach(model, masks)
    return masks


def _holder(model: nnx.Module, path: str) -> tuple[nnx.Module, str, str]:
    """The module that holds the mask of a parameter, the attribute, and the path from there."""
    segments = path.split("/")
    for n in range(len(segments) - 1, -1, -1):
        module, _ = owner(model, "/".join([*segments[:n], ""]))
        if not isinstance(module, nnx.Module) or isinstance(module, _CONTAINERS):
            continue
        for suffix in (_SUFFIX, _OTHER_SUFFIX):
            name, inner_path = "_".join(segments[n:]) + suffix, "/".join(segments[n:])
            there = getattr(module, name, None)
            own = isinstance(there, Mask) and there.get_metadata().get("parameter") == inner_path
            if own or not hasattr(module, name):
                return module, name, inner_path
        raise ValueError(
            f"{path}: its module has attributes {'_'.join(segments[n:])}{_SUFFIX} and "
            f"{name} of its own. Use attach_masks=False."
        )
    raise ValueError(
        f"{path} lies in a {type(model).__name__}, which cannot hold a mask beside it. Use "
        "attach_masks=False, or make it an attribute of a module."
    )
