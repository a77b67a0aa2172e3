"""Low-rank changes of sparse layers, which keep the zeros when they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dst.core import checks
from dst.core.typing import Array, ArrayLike
from dst.forms.carried_masks import Mask
from dst.forms.packed_modules import replace_modules, replaced

Kind = Literal["lora", "mask", "scale"]
_OPTIONS = ("dtype", "param_dtype", "precision", "dot_general", "promote_dtype")


class SparseLoRA(nnx.Module):
    """A linear layer with mask ``M`` whose weights ``W`` change by a low-rank product.

    ==========  ==========================  ============================================
    kind        weights in training         what :meth:`merged` makes of them
    ==========  ==========================  ============================================
    ``lora``    ``W + s A B``               ``W + s (A B) M``, which is another function
    ``mask``    ``W + s (A B) M``           the same: zeros stay zeros
    ``scale``   ``W (A B)``                 the same: zeros stay zeros
    ==========  ==========================  ============================================

    ``s = alpha / rank``. At the start the layer computes what it did: ``B`` is zero, or for
    ``scale`` all entries of ``A B`` are one.

    Attributes:
      kernel, bias: those of the layer.
      change: ``nnx.LoRA`` with ``lora_a [inputs, rank]`` and ``lora_b [rank, outputs]``.
      gate: ``[1, rank]``, by which the columns of ``A`` are multiplied; None without gates.

    Layers that were stacked by ``nnx.vmap`` have the stacked axis in front.

    Args:
      layer: an ``nnx.Linear``.
      mask: bool of the shape of its kernel.
      kind: which change.
      rank: at least 1, at most the smaller side of the kernel.
      alpha: > 0; without effect for ``scale``.
      gate: whether each of the ``rank`` components has a gate, normal at the start: ``A g B`` in
        place of ``A B``. Trained with :func:`dst.soft_threshold`, gates become exactly zero, and
        the rank falls (SoRA). Not for ``scale``.
      rngs: of ``A``, uniform in ``+- 1 / sqrt(inputs)``.

    References:
      Zimmer et al. 2023, "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs"
      (arXiv 2312.15230); Hu et al. 2021, LoRA (2106.09685); Ding et al. 2023, SoRA (2311.11696).

    Checked against: a worked table and dense products in NumPy, tests/forms/test_lora.py.
    """

    def __init__(
        self,
        layer: nnx.Linear,
        mask: ArrayLike,
        *,
        kind: Kind = "mask",
        rank: int = 16,
        alpha: float = 32.0,
        gate: bool = False,
        rngs: nnx.Rngs,
    ):
        kernel = layer.kernel.get_value()
        *stacked, inputs, outputs = kernel.shape
        checks.one_of("kind", kind, ("lora", "mask", "scale"))
        checks.integer("rank", rank, at_least=1, at_most=min(inputs, outputs))
        checks.above_zero("alpha", alpha)
        if gate and kind == "scale":
            raise ValueError("gate: expected a change that is added, got kind 'scale'. Use 'mask'.")
        if jnp.shape(mask) != kernel.shape:
            raise ValueError(
                f"expected a mask of shape {kernel.shape}, that of the kernel, got "
                f"{jnp.shape(mask)}."
            )
        self.kernel, self.bias = layer.kernel, layer.bias
        self.kernel_mask = Mask(jnp.asarray(mask, bool))
        self.kind, self.share = kind, alpha / rank
        self.options = {name: getattr(layer, name) for name in _OPTIONS}
        self.change = nnx.LoRA(inputs, rank, outputs, rngs=rngs, param_dtype=kernel.dtype)
        if kind == "scale":
            a = jnp.full((*stacked, inputs, rank), rank**-0.5, kernel.dtype)
            b = jnp.full((*stacked, rank, outputs), rank**-0.5, kernel.dtype)
        else:
            limit = inputs**-0.5
            a = jax.random.uniform(
                rngs.params(), (*stacked, inputs, rank), kernel.dtype, -limit, limit
            )
            b = jnp.zeros((*stacked, rank, outputs), kernel.dtype)
        self.change.lora_a.set_value(a)
        self.change.lora_b.set_value(b)
        shape = (*stacked, 1, rank)
        self.gate = (
            nnx.Param(jax.random.normal(rngs.params(), shape, kernel.dtype)) if gate else None
        )

    def weights(self, *, keep_zeros: bool = True) -> Array:
        """The kernel with its change, ``[inputs, outputs]``.

        Args:
          keep_zeros: whether the change of the kind ``lora`` has no part where the mask is False.
        """
        kernel = self.kernel.get_value()
        a = self.change.lora_a.get_value()
        product = (a if self.gate is None else a * self.gate.get_value()) @ (
            self.change.lora_b.get_value()
        )
        if self.kind == "scale":
            return kernel * product
        if self.kind == "mask" or keep_zeros:
            product = jnp.where(self.kernel_mask.get_value(), product, 0)
        return kernel + self.share * product

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """``[..., outputs]`` from ``[..., inputs]``; ``out_sharding`` as in ``nnx.Linear``."""
        bias = None if self.bias is None else self.bias.get_value()
        inputs, kernel, bias = self.options["promote_dtype"](
            (inputs, self.weights(keep_zeros=False), bias), dtype=self.options["dtype"]
        )
        more = {} if out_sharding is None else {"out_sharding": out_sharding}
        y: Array = self.options["dot_general"](
            inputs,
            kernel,
            (((inputs.ndim - 1,), (0,)), ((), ())),
            precision=self.options["precision"],
            **more,
        )
        return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))

    def merged(self, *, keep_zeros: bool = True) -> nnx.Linear:
        """The layer with the change in its kernel.

        Args:
          keep_zeros: False: the change of the kind ``lora`` fills the zeros, too.
        """
        options = {**self.options, "use_bias": self.bias is not None, "rngs": nnx.Rngs(0)}
        inputs, outputs = self.kernel.get_value().shape[-2:]
        layer = nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.zeros, **options)
        layer.kernel.set_value(self.weights(keep_zeros=keep_zeros))
        if self.bias is not None and layer.bias is not None:
            layer.bias.set_value(self.bias.get_value())
        return layer


def add_lora(
    model: nnx.Module,
    layers: Mapping[str, nnx.Linear],
    masks: Mapping[str, ArrayLike],
    rngs: nnx.Rngs,
    **settings: Any,
) -> None:
    """Puts a :class:`SparseLoRA` in the place of layers; the model is changed.

    Args:
      model: an NNX module that holds the layers.
      layers: by the leaf path of their kernel.
      masks: bool by leaf path; where a layer has none, its weights that are not zero.
      rngs: of the changes.
      settings: of :class:`SparseLoRA`.
    """
    new = {}
    for path, layer in layers.items():
        mask = masks.get(path, layer.kernel.get_value() != 0)
        new[id(layer)] = SparseLoRA(layer, mask, rngs=rngs, **settings)
    replace_modules(model, lambda module: new.get(id(module)))


def merge_lora(model: nnx.Module, *, keep_zeros: bool = True) -> Any:
    """A copy of a model with the changes of all :class:`SparseLoRA` in the kernels.

    Args:
      model: an NNX module; not changed.
      keep_zeros: see :meth:`SparseLoRA.merged`.
    """
    if isinstance(model, SparseLoRA):
        return model.merged(keep_zeros=keep_zeros)
    return replaced(model, SparseLoRA, partial(SparseLoRA.merged, keep_zeros=keep_zeros))
