"""Flax NNX: models that carry their masks, and the optimizer that updates both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from dst import flops
from dst.core import extras
from dst.core.tree import Select
from dst.core.typing import Array, ArrayLike, Batch, Params, PyTree
from dst.engine.sparsify import sparsify
from dst.inspect import invariants, metrics
from dst.methods.static import Static
from dst.oneshot import prune as oneshot
from dst.rules.allocation import Allocator
from dst.rules.structure import BalancedBlock

with extras.required():
    from flax import nnx

    from dst.core.roles.nnx import axes, roles
    from dst.engine.nnx_optimizer import Filter, Optimizer
    from dst.forms import carried_masks, lora
    from dst.forms.carried_masks import Mask, attach, detach, masks
    from dst.forms.lora import SparseLoRA, merge_lora
    from dst.forms.packed_modules import (
        BlockLinear,
        Index,
        linear_layers,
        stacked_axes,
        to_blocks,
        unpack,
    )
    from dst.oneshot.structured.modules import remove

__all__ = [
    "BlockLinear",
    "Index",
    "Mask",
    "Optimizer",
    "SparseLoRA",
    "add_lora",
    "attach",
    "axes",
    "check_invariants",
    "costs",
    "detach",
    "masks",
    "merge_lora",
    "prune",
    "remove",
    "replace_linear",
    "unpack",
]


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
    loss: Callable[[nnx.Module, Batch], ArrayLike] | None = None,
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
      loss: ``loss(model, batch)``, one number; for methods and allocations that read it.
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

    if loss is not None:
        of_model = loss

        def of_params(params: Params, batch: Batch) -> ArrayLike:
            return of_model(nnx.merge(graph, params, rest), batch)

        options = {"loss": of_params, **options}
    options = {"roles": roles(model, wrt), **options}
    new, masks = oneshot.prune(params, sparsity, forward=run, batches=batches, **options)
    nnx.update(model, new)
    if attach_masks and masks:
        attach(model, masks)
    return masks


def replace_linear(
    model: nnx.Module,
    pattern: Select | None = None,
    block: int | tuple[int, int] = 64,
    sparsity: float = 0.9,
    *,
    allocation: str | Allocator = "uniform",
    initial: str = "random",
    seed: int = 0,
) -> list[str]:
    """Puts block-sparse layers in the place of linear layers; the model changes, its weights stay.

    Any optimizer trains such a model with these blocks. ``dst.nnx.Optimizer`` with
    ``form="packed"`` and a method of ``structure=dst.BalancedBlock(block, block)`` exchanges them.
    :func:`unpack` is the way back.

    Args:
      model: an NNX module that holds ``nnx.Linear`` or ``nnx.LinearGeneral``.
      pattern: which kernels, as ``select`` of :func:`dst.sparsify`; None: those of all these
        layers.
      block: inputs and outputs of a block; one number for both. 64 and 128 suit a CPU.
      sparsity: of the replaced kernels, in (0, 1).
      allocation: of the sparsity among them.
      initial: which blocks are kept: ``random``, or those of the largest ``magnitude``.
      seed: of random blocks.

    Returns:
      The leaf paths of the kernels.

    Raises:
      ValueError: no such layer, a pattern that chooses other leaves, features that the block does
        not divide, a model that is itself the layer.

    Example:
      >>> from flax import nnx
      >>> model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
      >>> replace_linear(model, block=2, sparsity=0.75), model.layers[0].kernel.shape
      (['layers/0/kernel'], (4, 2, 2))
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must be a number in (0, 1), got {sparsity!r}.")
    sides = (block, block) if isinstance(block, int) else block
    layers = linear_layers(model)
    if not layers or "kernel" in layers:
        what = "is itself the layer: use dst.nnx.BlockLinear" if layers else "has none"
        raise ValueError(f"replace_linear: expected a model with linear layers, this one {what}.")
    tx = sparsify(
        optax.identity(),
        Static(sparsity, allocation=allocation, structure=BalancedBlock(*sides)),
        select=list(layers) if pattern is None else pattern,
        stacked=stacked_axes(layers),
        roles=roles(model),
        initial=initial,
        seed=seed,
    )
    found = metrics.masks(tx.init(nnx.state(model, nnx.Param)))
    if wrong := sorted(found.keys() - layers.keys()):
        raise ValueError(
            f"replace_linear: {', '.join(wrong)} belongs to no nnx.Linear or nnx.LinearGeneral. "
            f"Their kernels are {', '.join(layers)}."
        )
    to_blocks(model, found, sides)
    return list(found)


def add_lora(
    model: nnx.Module,
    pattern: Select | None = None,
    *,
    kind: lora.Kind = "mask",
    rank: int = 16,
    alpha: float = 32.0,
    gate: bool = False,
    masks: Mapping[str, ArrayLike] | None = None,
    rngs: nnx.Rngs,
) -> list[str]:
    """Lets sparse linear layers change by low-rank products; the model changes, its outputs do not.

    Train the leaves ``**/lora_a`` and ``**/lora_b`` alone. :func:`merge_lora` then has the changes
    in the kernels, with the same zeros.

    Args:
      model: an NNX module that holds ``nnx.Linear``; changed in place.
      pattern: which kernels, as ``select`` of :func:`dst.sparsify`; None: as it chooses.
      kind: see :class:`SparseLoRA`.
      rank: at least 1, at most the smaller side of each kernel.
      alpha: > 0.
      gate: whether each component has a gate (SoRA); see :class:`SparseLoRA`.
      masks: bool by leaf path; None: those that the model carries, else which weights are not zero.
      rngs: of the changes.

    Returns:
      The leaf paths of the kernels.

    Raises:
      ValueError: no such layer, a pattern that chooses other leaves, a rank above a side.

    Example:
      >>> from flax import nnx
      >>> model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
      >>> _ = prune(model, 0.5)
      >>> add_lora(model, rank=2, rngs=nnx.Rngs(0))
      ['layers/0/kernel']
      >>> int((merge_lora(model).layers[0].kernel[...] != 0).sum())
      32
    """
    tx = sparsify(
        optax.identity(),
        Static(0.5, allocation="uniform"),
        select=pattern,
        stacked=stacked_axes(linear_layers(model)),
        roles=roles(model),
    )
    chosen = list(tx.plan(nnx.state(model, nnx.Param)).sparse)
    layers = {k: x for k, x in linear_layers(model).items() if isinstance(x, nnx.Linear)}
    wrong = sorted(set(chosen) - (layers.keys() - {"kernel"}))  # a model that is itself the layer
    if not chosen or wrong:
        what = f"{', '.join(wrong)} belongs to none" if wrong else "none is chosen"
        raise ValueError(
            f"add_lora: expected kernels of nnx.Linear inside of the model, {what}. They are "
            f"{', '.join(layers) or 'none'}."
        )
    if masks is None:
        carries = jax.tree.leaves(nnx.state(model, Mask))
        masks = carried_masks.masks(model) if carries else {}
    settings = {"kind": kind, "rank": rank, "alpha": alpha, "gate": gate}
    lora.add_lora(model, {k: layers[k] for k in chosen}, masks, rngs, **settings)
    return chosen
