"""Flax models that store active weights only: block-sparse layers, and kernels in a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from dst.core.roles import Role
from dst.core.roles.nnx import owner
from dst.core.typing import Array, ArrayLike
from dst.forms import blocks, packed

Layer = nnx.Linear | nnx.LinearGeneral

_SUFFIX = "_index"
# What the layer with its zeros is made with again.
_OPTIONS = ("param_dtype", "precision", "dot_general", "promote_dtype", "preferred_element_type")


class Index(nnx.Variable):
    """int32 beside a packed parameter ``w``, as ``w_index``: where its values stand.

    The metadata ``dense_shape`` is that of the parameter with its zeros.
    """


class BlockLinear(nnx.Module):
    """``x W + b`` with the blocks of a block-sparse ``W`` alone: see :func:`dst.block_matmul`.

    Attributes:
      kernel: parameter ``[columns, slots * h, w]``.
      kernel_index: int32 ``[columns, slots]``: which block of inputs each block multiplies.
      bias: parameter of the shape of the outputs, or None.
      in_features, out_features: tuples; several axes are taken as one, the last running fastest.

    Layers that were stacked by ``nnx.vmap`` have the stacked axis in front. ``precision``,
    ``dot_general`` and ``preferred_element_type`` of the layer have no effect on blocks.

    Args:
      layer: an ``nnx.Linear``, or an ``nnx.LinearGeneral`` over the last axes.
      mask: bool of the shape of its kernel. Constant within blocks; each column of blocks has as
        many active ones, or spare slots are filled with zeros.
      block: inputs ``h`` and outputs ``w`` of a block. They divide the features.

    Raises:
      ValueError: a layer over other axes, or a block that does not divide its features.
    """

    # Blocks of outputs, the inputs of their active blocks, outputs of a block. No zeros are left
    # to choose.
    kernel_role = Role("dst.nnx.BlockLinear", "o i o", sparse=False)

    def __init__(self, layer: Layer, mask: ArrayLike, block: tuple[int, int]):
        self.in_features, self.out_features = _features(layer)
        sides = math.prod(self.in_features), math.prod(self.out_features)
        for side, part, name in zip(sides, block, ("inputs", "outputs"), strict=True):
            if part < 1 or side % part:
                raise ValueError(f"blocks of {block} do not divide the {side} {name} of a layer.")
        kernel = layer.kernel.get_value()
        stacked = kernel.shape[: kernel.ndim - len(self.in_features) - len(self.out_features)]
        matrix, mask = (jnp.reshape(x, (*stacked, *sides)) for x in (kernel, jnp.asarray(mask)))
        units = mask[..., :: block[0], :: block[1]]
        slots = max(1, int(units.sum(axis=-2).max()))
        index = blocks.indices(mask, block, slots)
        self.kernel = nnx.Param(blocks.gather(jnp.where(mask, matrix, 0), index, block))
        self.kernel_index = Index(index, dense_shape=(*stacked, *sides))
        self.bias = nnx.data(None if layer.bias is None else nnx.Param(layer.bias.get_value()))
        self.general = isinstance(layer, nnx.LinearGeneral)
        self.dtype = layer.dtype
        self.options = {name: getattr(layer, name) for name in _OPTIONS}

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """``[..., *out_features]`` from ``[..., *in_features]``; ``out_sharding`` has no effect."""
        bias = None if self.bias is None else self.bias.get_value()
        inputs, kernel, bias = self.options["promote_dtype"](
            (inputs, self.kernel.get_value(), bias), dtype=self.dtype
        )
        around = inputs.shape[: inputs.ndim - len(self.in_features)]
        if inputs.shape[len(around) :] != self.in_features:
            raise ValueError(
                f"expected inputs [..., {', '.join(map(str, self.in_features))}], got "
                f"{inputs.shape}."
            )
        flat = inputs.reshape(*around, -1)
        y = blocks.block_matmul(flat, kernel, self.kernel_index.get_value())
        y = y.reshape(*around, *self.out_features)
        return y if bias is None else y + jnp.expand_dims(bias, range(len(around)))

    def dense(self) -> Layer:
        """The layer with its zeros."""
        options = self.options | {
            "dtype": self.dtype,
            "use_bias": self.bias is not None,
            "kernel_init": nnx.initializers.zeros,
            "rngs": nnx.Rngs(0),
        }
        layer: Layer
        if self.general:
            axes = tuple(range(-len(self.in_features), 0))
            layer = nnx.LinearGeneral(self.in_features, self.out_features, axis=axes, **options)
        else:
            layer = nnx.Linear(*self.in_features, *self.out_features, **options)
        index = self.kernel_index
        shape = index.get_metadata("dense_shape")
        matrix = blocks.scatter(self.kernel.get_value(), index.get_value(), shape)
        layer.kernel.set_value(matrix.reshape(*shape[:-2], *self.in_features, *self.out_features))
        if self.bias is not None and layer.bias is not None:
            layer.bias.set_value(self.bias.get_value())
        return layer

    def mask(self) -> Array:
        """bool, of the shape of the kernel with its zeros: which weights are stored."""
        index = self.kernel_index
        shape = index.get_metadata("dense_shape")
        ones = jnp.ones(self.kernel.get_value().shape, bool)
        dense = blocks.scatter(ones, index.get_value(), shape)
        return dense.reshape(*shape[:-2], *self.in_features, *self.out_features)


def _features(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not isinstance(layer, nnx.LinearGeneral):
        return (layer.in_features,), (layer.out_features,)
    axes = tuple(sorted(layer.axis))
    if layer.batch_axis or axes != layer.axis or axes != tuple(range(-len(axes), 0)):
        raise ValueError(
            f"a block-sparse layer needs inputs in the last axes, got axis={layer.axis} and "
            f"batch_axis={dict(layer.batch_axis)}. Leave this layer out."
        )
    return tuple(layer.in_features), tuple(layer.out_features)


def linear_layers(model: nnx.Module) -> dict[str, Layer]:
    """The linear layers of a model, by the leaf path of their kernel."""
    return _layers(model, (nnx.Linear, nnx.LinearGeneral))


def stacked_axes(layers: Mapping[str, Layer | BlockLinear]) -> dict[str, int]:
    """How many leading axes of each kernel enumerate layers, where there are any."""
    axes = {}
    for path, layer in layers.items():
        if isinstance(layer, BlockLinear):
            axes[path] = len(layer.kernel_index.get_metadata("dense_shape")) - 2
        else:
            axes[path] = layer.kernel.get_value().ndim - sum(map(len, _features(layer)))
    return {path: n for path, n in axes.items() if n}


def block_layers(model: nnx.Module) -> dict[str, BlockLinear]:
    """The block-sparse layers of a model, by the leaf path of their kernel."""
    return _layers(model, BlockLinear)


def _layers(model: nnx.Module, kind: Any) -> dict[str, Any]:
    found = [(path, x) for path, x in nnx.iter_modules(model) if isinstance(x, kind)]
    return {"/".join(map(str, (*path, "kernel"))): x for path, x in reversed(found)}


def to_blocks(model: nnx.Module, masks: Mapping[str, ArrayLike], block: tuple[int, int]) -> None:
    """Puts a :class:`BlockLinear` in the place of every layer with a mask; the model is changed.

    Args:
      model: an NNX module that holds the layers.
      masks: bool by leaf path of the kernels; see :class:`BlockLinear`.
      block: inputs and outputs of a block.
    """
    layers = linear_layers(model)
    new = {id(layers[path]): BlockLinear(layers[path], masks[path], block) for path in masks}
    replace_modules(model, lambda module: new.get(id(module)))


def store(model: nnx.Module, indices: Mapping[str, tuple[Array, tuple[int, ...]]]) -> None:
    """Writes where packed values stand into the variables beside them.

    Indices are copied: an array that stands in two places cannot be donated.

    Args:
      model: an NNX module whose parameters hold the values; changed in place.
      indices: by leaf path, the index and the shape of the parameter with its zeros.

    Raises:
      ValueError: a parameter that is no attribute of a module.
    """
    for path, (index, shape) in indices.items():
        index = jnp.copy(index)
        module, name = owner(model, path)
        if not isinstance(module, nnx.Module) or isinstance(module, (nnx.Dict, nnx.List)):
            raise ValueError(
                f"{path} lies in a {type(module).__name__}, which cannot hold an index beside it. "
                "Make it an attribute of a module."
            )
        there = getattr(module, name + _SUFFIX, None)
        if isinstance(there, Index):
            there.set_value(index)
        else:
            setattr(module, name + _SUFFIX, Index(index, dense_shape=shape))


def replace_modules(model: nnx.Module, other: Callable[[Any], nnx.Module | None]) -> None:
    """Replaces modules inside a model; a module that it holds several times stays one."""
    for _, parent in list(nnx.iter_modules(model)):
        for name, child in list(vars(parent).items()):
            if isinstance(child, nnx.Module) and (new := other(child)) is not None:
                setattr(parent, name, new)


def replaced(model: nnx.Module, kind: type, other: Callable[[Any], nnx.Module]) -> nnx.Module:
    """A copy of a model with other modules in the place of those of a kind."""
    copy, known = nnx.clone(model), {}

    def new(module: Any) -> nnx.Module | None:
        if isinstance(module, kind) and id(module) not in known:
            known[id(module)] = other(module)
        return known.get(id(module))

    replace_modules(copy, new)
    return copy


def unpack(model: nnx.Module) -> Any:
    """A copy of a model in which all kernels are dense arrays with their zeros.

    Block-sparse layers become ``nnx.Linear`` and ``nnx.LinearGeneral`` again. Its derivative with
    respect to the stored values is that of the model. Gradients of the copy are those that
    topology steps look at, and the copy is what other programs read.

    Args:
      model: an NNX module; not changed.

    Example:
      >>> import dst.nnx
      >>> from flax import nnx
      >>> model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
      >>> dst.nnx.replace_linear(model, block=2, sparsity=0.5)
      ['layers/0/kernel']
      >>> type(dst.nnx.unpack(model).layers[0]).__name__
      'Linear'
    """
    if isinstance(model, BlockLinear):
        return model.dense()
    copy = replaced(model, BlockLinear, BlockLinear.dense)
    for _, module in nnx.iter_modules(copy):
        for name, index in list(vars(module).items()):
            if not isinstance(index, Index):
                continue
            parameter = getattr(module, name.removesuffix(_SUFFIX))
            shape = index.get_metadata("dense_shape")
            parameter.set_value(packed.scatter(parameter.get_value(), index.get_value(), shape))
            delattr(module, name)
    return copy
