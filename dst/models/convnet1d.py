"""A small convolutional network for signals: the one of MNIST-1D."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.axes import axis_names
from dst.models.shapes import axes
from dst.rules.fields import Widths


@named("convnet1d", convolutions=True)
class ConvNet1d(nnx.Module):
    """Convolutions of stride 2 with ReLU, then a linear layer over all places and channels.

    The first convolution has a window of 5, the others of 3; each pads one place on both sides.

    Args:
      shape: ``(length, channels)`` of one signal.
      classes: number of outputs.
      channels: output channels of the convolutions.
      rngs: of the initial weights.

    Raises:
      ValueError: no signals, or signals of less than 3 places.

    Example:
      >>> import jax.numpy as jnp
      >>> model = ConvNet1d((40, 1), 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 40, 1))).shape
      (2, 10)

    References:
      Greydanus and Kobak 2020, "Scaling Down Deep Learning with MNIST-1D" (arXiv 2011.14439).

    Checked against: ConvBase in notebooks/models.py of greydanus/mnist1d at 579085a, 5,210
    parameters: tests/models/test_models.py.
    Differs from that code: initial weights are LeCun's, biases start at zero.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        channels: Widths = (25, 25, 25),
        rngs: nnx.Rngs,
    ):
        length, depth = axes("convnet1d", shape, "length", "channels")
        if length < 3:
            raise ValueError(f"convnet1d needs signals of at least 3 places, got {length}.")
        layers = []
        names = "channels", "filters"
        for i, outputs in enumerate(channels):
            window = 3 if i else 5
            layers.append(
                nnx.Conv(
                    depth,
                    outputs,
                    kernel_size=(window,),
                    strides=2,
                    padding=((1, 1),),
                    kernel_metadata=axis_names(None, names[i % 2], names[1 - i % 2]),
                    rngs=rngs,
                )
            )
            depth, length = outputs, (length + 2 - window) // 2 + 1
        self.conv = nnx.List(layers)
        last = axis_names("embed", None)
        self.out = nnx.Linear(length * depth, classes, kernel_metadata=last, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of signals ``[batch, length, channels]``."""
        x = inputs
        for layer in self.conv:
            x = nnx.relu(layer(x))
        return self.out(x.reshape(len(x), -1))
