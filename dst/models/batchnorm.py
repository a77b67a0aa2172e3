"""Batch normalization: a convolution with its norm, and statistics that fit new weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx

from dst.core.typing import Array
from dst.models.axes import axis_names


class ConvNorm(nnx.Module):
    """A convolution without bias, then batch normalization.

    Args:
      inputs: channels.
      outputs: channels.
      window: kernel size.
      stride: in both directions.
      depthwise: one window per channel, ``inputs`` and ``outputs`` being equal. Its kernel is then
        ``depthwise/kernel``, which sparse training leaves dense by default.
      padding: as in ``nnx.Conv``; None: half the window on each side.
      names: of the axes of channels: inputs and outputs.
      rngs: of the initial weights (He's, by outputs).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: int,
        stride: int = 1,
        *,
        depthwise: bool = False,
        padding: str | None = None,
        names: tuple[str | None, str | None] = (None, None),
        rngs: nnx.Rngs,
    ):
        half = (window // 2, window // 2)
        conv = nnx.Conv(
            inputs,
            outputs,
            kernel_size=(window, window),
            strides=stride,
            padding=padding or (half, half),
            feature_group_count=inputs if depthwise else 1,
            use_bias=False,
            kernel_init=he(),
            kernel_metadata=axis_names(None, None, *names),
            rngs=rngs,
        )
        self.name = "depthwise" if depthwise else "conv"
        setattr(self, self.name, conv)
        self.norm = norm(outputs, rngs)

    def __call__(self, inputs: Array) -> Array:
        """``[batch, height / stride, width / stride, outputs]``."""
        return self.norm(getattr(self, self.name)(inputs))


def he() -> Any:
    """Initial weights of He et al. 2015 (arXiv 1502.01852), scaled by outputs."""
    return nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """A batch norm whose statistics move by a tenth per training batch."""
    return nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)


def recalibrate(model: nnx.Module, batches: Iterable[Any]) -> None:
    """Sets the running statistics of all batch norms to those of the weights as they are.

    Running averages depend on the weights, and the connections, of many steps ago. Call this after
    masks have changed, and before an evaluation. Mean and variance become those of the union of
    all ``batches``. On the way each batch is normalized by its own statistics, as in training.
    Modes of the model do not change.

    Args:
      model: changed in place.
      batches: inputs of the model, of equal shape: each new shape compiles once more. More images
        are better; a thousand suffice.

    Raises:
      ValueError: no batch, or no batch norm.

    References:
      Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm" (arXiv 2105.07576), section 3.
    """
    norms = _norms(model)
    if not norms:
        raise ValueError("this model has no nnx.BatchNorm, so there is nothing to recalibrate.")
    before = [(x.momentum, x.use_running_average) for x in norms]
    for x in norms:  # with momentum 0 the running statistics are those of the last batch
        x.momentum, x.use_running_average = 0.0, False
    try:
        graph, state = nnx.split(model)
    finally:
        for x, (momentum, running) in zip(norms, before, strict=True):
            x.momentum, x.use_running_average = momentum, running

    @jax.jit
    def statistics(state: Any, inputs: Array) -> list[tuple[Array, Array]]:
        part = nnx.merge(graph, state)
        part(inputs)
        return [(x.mean.get_value(), x.var.get_value()) for x in _norms(part)]

    images, first = 0, [np.zeros(x.mean.shape) for x in norms]
    second = [np.zeros(x.mean.shape) for x in norms]
    for inputs in batches:
        images += len(inputs)
        for i, (mean, variance) in enumerate(jax.device_get(statistics(state, inputs))):
            mean = mean.astype(np.float64)
            first[i] += len(inputs) * mean
            second[i] += len(inputs) * (variance + mean**2)
    if not images:
        raise ValueError("recalibrate needs at least one batch of inputs, got none.")
    for x, one, two in zip(norms, first, second, strict=True):
        mean = one / images
        for variable, value in ((x.mean, mean), (x.var, two / images - mean**2)):
            old = variable.get_value()
            variable.set_value(jax.device_put(value.astype(old.dtype), old.sharding))


def _norms(model: nnx.Module) -> list[nnx.BatchNorm]:
    return [x for _, x in nnx.iter_modules(model) if isinstance(x, nnx.BatchNorm)]
