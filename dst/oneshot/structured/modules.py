"""Smaller Flax NNX models: their arrays, and what their modules say of sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx

from dst.core.roles.nnx import owner
from dst.core.typing import Batch, Params, PyTree
from dst.forms.carried_masks import detach
from dst.oneshot.structured.groups import Groups, channel_groups
from dst.oneshot.structured.magnitude import Magnitude
from dst.oneshot.structured.removal import Removal
from dst.oneshot.structured.remove import remove as remove_units
from dst.oneshot.structured.remove import shares
from dst.oneshot.structured.units import UnitScore

Model = TypeVar("Model", bound=nnx.Module)


def remove(
    model: Model,
    fraction: float | Mapping[str, float],
    *,
    groups: Groups | None = None,
    score: UnitScore | None = None,
    forward: Callable[[Model, Batch], PyTree] | None = None,
    batches: Iterable[Batch] | None = None,
    loss: Callable[[Model, Batch], Any] | None = None,
    wrt: Any = (nnx.Param, nnx.BatchStat),
    **options: Any,
) -> tuple[Model, Removal]:
    """:func:`dst.remove` of an NNX model: a smaller model of the same classes.

    Under ``FLAP`` and without ``groups``, linear layers and convolutions that read units get a bias
    where they have none. Masks that the model carries are not in the smaller one.

    Args:
      model: an NNX module that computes its sizes from arrays; not changed.
      fraction: of the units, in [0, 1), or by pattern of group names.
      groups: None: all that :func:`dst.channel_groups` finds.
      score: of :mod:`dst.oneshot.structured`; None: ``Magnitude()``.
      forward: ``forward(model, batch)``; None: ``model(batch)``. Call ``model.eval()`` before, so
        that dropout and running statistics rest.
      batches: calibration data; without them, give ``groups``.
      loss: ``loss(model, batch)``, a scalar.
      wrt: the variables that have positions of units; running statistics have them, too.
      options: of :func:`dst.remove`: ``where``.

    Returns:
      The smaller model, and what was removed.

    Raises:
      ValueError: as :func:`dst.remove`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> first, last = (nnx.Linear(*x, rngs=nnx.Rngs(0)) for x in ((4, 8), (8, 2)))
      >>> model = nnx.Sequential(first, nnx.relu, last)
      >>> smaller, _ = remove(model, 0.25, batches=[jnp.ones((3, 4))])
      >>> smaller.layers[0].kernel.shape, smaller.layers[0].out_features
      ((4, 6), 6)
    """
    score = Magnitude() if score is None else score
    model = nnx.merge(*nnx.split(model))
    detach(model)
    data = None if batches is None else list(batches)

    def apply(model: Any, batch: Batch) -> PyTree:
        return model(batch) if forward is None else forward(model, batch)

    def parts() -> tuple[Params, Callable[..., Any], Callable[[Params], Model]]:
        graph, *states = nnx.split(model, wrt, ...)
        params, rest = states

        def merged(params: Params) -> Model:
            return nnx.merge(graph, params, rest)

        return params, lambda params, batch: apply(merged(params), batch), merged

    params, run, merged = parts()
    if groups is None and data:
        groups = channel_groups(run, params, data[0])
        if getattr(score, "compensate", False):
            chosen = shares(fraction, groups)
            add_biases(model, Groups({x.name: x for x in groups if chosen[x.name]}))
            params, run, merged = parts()
            groups = channel_groups(run, params, data[0])  # what reads may compute units, too
    if loss is not None:
        options["loss"] = lambda params, batch: loss(merged(params), batch)
    new, removal = remove_units(
        params, fraction, groups=groups, score=score, forward=run, batches=data, **options
    )
    smaller = merged(new)
    resize(smaller, removal.groups)
    return smaller, removal


def add_biases(model: nnx.Module, groups: Groups) -> None:
    """Gives a bias of zeros to linear layers and convolutions that read units and have none."""
    for group in groups:
        for member in group.members:
            module, name = owner(model, member.path)
            if member.consumes and isinstance(module, (nnx.Linear, nnx.Conv)) and name == "kernel":
                add_bias(module)


def add_bias(module: nnx.Linear | nnx.Conv) -> None:
    """Gives a layer a bias of zeros where it has none; a stack of layers one for each."""
    if module.bias is not None:
        return
    kernel = module.kernel
    rank = 2 + (len(module.kernel_size) if isinstance(module, nnx.Conv) else 0)
    shape = (*kernel.shape[:-rank], kernel.shape[-1])
    names = kernel.get_metadata().get("out_sharding")
    metadata: dict[str, Any] = {}
    if names:
        metadata = {"out_sharding": (*names[:-rank], names[-1]), "eager_sharding": False}
    module.use_bias = True
    module.bias = nnx.data(nnx.Param(jnp.zeros(shape, kernel.dtype), **metadata))


def resize(model: nnx.Module, groups: Groups) -> None:
    """Sets the sizes that modules name to those of their arrays, where units were removed."""
    for path in {x.path for group in groups for x in group.members}:
        module, name = owner(model, path)
        array = getattr(module, name)[...]
        if isinstance(module, (nnx.Linear, nnx.Conv)) and name == "kernel":
            module.in_features, module.out_features = array.shape[-2:]
        elif isinstance(module, nnx.Embed):
            module.num_embeddings, module.features = array.shape[-2:]
        elif hasattr(module, "num_features"):  # norms
            module.num_features = array.shape[-1]
        elif isinstance(module, nnx.GroupNorm):  # units are whole groups
            module.num_groups = array.shape[-1] // module.group_size
        elif isinstance(module, nnx.Einsum):
            module.kernel_shape = module.kernel[...].shape
            module.bias_shape = None if module.bias is None else module.bias[...].shape
        elif isinstance(module, nnx.LinearGeneral):
            _resize_general(module, array.shape)


def _resize_general(module: Any, shape: tuple[int, ...]) -> None:
    inputs, outputs = module.in_features, module.out_features
    depth, count = (len(x) if isinstance(x, tuple) else 1 for x in (inputs, outputs))
    before, after = shape[-count - depth : -count], shape[-count:]
    module.in_features = before if isinstance(inputs, tuple) else before[0]
    module.out_features = after if isinstance(outputs, tuple) else after[0]
