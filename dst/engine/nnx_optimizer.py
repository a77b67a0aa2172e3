"""The optimizer of Flax NNX models that carry masks, or hold active weights only."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import optax
from flax import nnx

from dst.core import checks
from dst.core.roles.nnx import roles
from dst.core.tree import flatten
from dst.core.typing import Array, OptState, PyTree
from dst.engine.masks import active
from dst.engine.projection import apply_masks
from dst.engine.scaling import scale_init
from dst.engine.sparsify import sparsify
from dst.engine.state import SparsifyState, masks_by_path, places_by_path
from dst.engine.transformation import SparseTransformation, around, with_state
from dst.forms.carried_masks import attach, detach, holder, masks
from dst.forms.packed_modules import block_layers, stacked_axes, store, unpack
from dst.methods.from_masks import FromMasks
from dst.rules.latent import Latent
from dst.rules.method import Method
from dst.rules.rule import Rule

Filter: TypeAlias = Any  # which variables, as nnx.state reads it: a type, a predicate, or several


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
      form: ``"packed"``: the model holds active weights only, and their places in variables
        ``kernel_index``. Differentiate ``loss(dst.nnx.unpack(model))``, and call ``retopologise``
        at topology steps. Block-sparse layers of :func:`replace_linear` need no unpacking between
        them; then they are what is sparse.
      options: ``seed``, ``steps``, ``select``, ``overrides``, ``stacked``, ``axes``, ``initial``
        and ``scale`` of :func:`dst.sparsify`. With ``scale`` the weights of the model are taken as
        new and scaled, too. The modules of the model are asked; see :func:`dst.roles`.

    Raises:
      ValueError: as :func:`dst.sparsify`; ``FromMasks()`` for a model that carries none;
        block-sparse layers in the masked form, or a method with other blocks than theirs.

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
        form: str = "masked",
        **options: Any,
    ):
        if isinstance(method, FromMasks) and method.masks is None:
            method = FromMasks(masks(model))
        checks.integer("accumulate", accumulate, at_least=1)
        if form == "packed" or block_layers(model):
            checks.integer("accumulate of the packed form", accumulate, at_least=1, at_most=1)
            tx = _packed(model, inner, method, wrt, graph, form, options)
            super().__init__(model, tx, wrt=wrt, graph=graph)
            self.opt_state = nnx.data(_together(self.opt_state))
            self.attach_masks = False
            return
        tx = sparsify(inner, method, roles=roles(model, wrt), form=form, **options)
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
            attach(model, _masks(self._arrays()))
        else:
            detach(model)

    def update(self, model: nnx.Module, grads: PyTree, /, **kwargs: Any) -> PyTree:
        """One optimizer step; ``topology`` as in :func:`dst.sparsify`, other extras go inside."""
        params, grads, options = map(nnx.as_pure, (self._of(model), self._of(grads), kwargs))
        updates, opt_state = self.tx.update(grads, self._arrays(), params, **options)
        self._step(model, optax.apply_updates(params, updates), opt_state)
        # Latent-weight methods may choose at every step, whatever the flag says.
        steady = kwargs.get("topology") is False and not self.tx.selects_every_step
        if self.attach_masks and not steady:
            for path, mask in _masks(self._arrays()).items():
                module, name, _ = holder(model, path)
                if not hasattr(module, name):
                    raise ValueError(
                        f"{path}: the model carries no mask any more (dst.nnx.detach). Create the "
                        "optimizer again, or with attach_masks=False."
                    )
                getattr(module, name).set_value(mask)
        return updates

    def retopologise(self, model: nnx.Module, grads: PyTree, /, **kwargs: Any) -> None:
        """A topology step of a model in the packed form.

        Args:
          model: of this optimizer; its weights and their places change.
          grads: of ``dst.nnx.unpack(model)``, with respect to all its weights.
          kwargs: arguments for the inner optimizer.
        """
        values, grads, options = map(nnx.as_pure, (self._of(model), self._of(grads), kwargs))
        values, opt_state = self.tx.retopologise(grads, self._arrays(), values, **options)
        self._step(model, values, opt_state)
        store(model, places_by_path(self._arrays()))

    def _step(self, model: nnx.Module, params: PyTree, opt_state: OptState) -> None:
        """What a step has computed becomes the state."""
        nnx.update(model, params)
        jax.tree.map(
            lambda variable, value: variable.set_value(value),
            self.opt_state,
            opt_state,
            is_leaf=lambda x: isinstance(x, nnx.Variable),
        )
        self.step[...] += 1

    def _of(self, nodes: PyTree) -> PyTree:
        return nnx.state(nodes, self.wrt, graph=self.graph)

    def _arrays(self) -> OptState:
        return nnx.as_pure(self.opt_state)


def _packed(
    model: nnx.Module,
    inner: optax.GradientTransformation,
    method: Method | Rule | Latent,
    wrt: Filter,
    graph: bool | None,
    form: str,
    options: dict[str, Any],
) -> SparseTransformation:
    """The transformation of a model that becomes packed, with the state to begin with."""
    layers, dense = block_layers(model), unpack(model)
    if layers and form != "packed":
        raise ValueError(
            f"{', '.join(layers)}: a model with block-sparse layers stores no zeros. Say "
            'form="packed", or train dst.nnx.unpack(model).'
        )
    if layers:
        stacked = stacked_axes(layers) | dict(options.get("stacked") or {})
        masks = {path: x.mask() for path, x in layers.items()}
        options = {**options, "initial": masks, "stacked": stacked}
    tx = sparsify(inner, method, roles=roles(dense, wrt), form=form, **options)
    assert tx.packed is not None
    values, state = tx.packed.pack(scale_init(nnx.state(dense, wrt, graph=graph), tx))
    paths, found, _ = flatten(values)
    shapes = {path: x.shape for path, x in zip(paths, found, strict=True)}
    for path, layer in layers.items():
        kernel = layer.kernel.get_value().shape
        if shapes[path] != kernel:
            h, w = kernel[-2] // layer.kernel_index.get_value().shape[-1], kernel[-1]
            raise ValueError(
                f"{path}: its layer stores blocks of {h} x {w} in an array of shape {kernel}, the "
                f"method needs shape {shapes[path]}. Use structure=dst.BalancedBlock({h}, {w})."
            )
    nnx.update(model, values)
    store(model, places_by_path(state))
    return with_state(tx, state)


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


def _masks(opt_state: OptState) -> dict[str, Array]:
    return {path: active(m) for path, m in masks_by_path(opt_state).items()}
