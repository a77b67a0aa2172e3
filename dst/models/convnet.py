"""A small convolutional network for images of a few pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.axes import axis_names
from dst.models.shapes import axes
from dst.rules.fields import Positive, Widths


@named("convnet", convolutions=True)
class ConvNet(nnx.Module):
    """Convolutions of 3 x 3, each with ReLU and 2 x 2 max-pooling, then one hidden layer.

    Args:
      shape: ``(height, width, channels)`` of one image.
      classes: number of outputs.
      channels: output channels of the convolutions.
      hidden: width of the hidden layer.
      norm: after every convolution: ``batch`` (BatchNorm) or ``none``.
      rngs: of the initial weights.

    Raises:
      ValueError: no images, or images too small for so many poolings.

    Example:
      >>> import jax.numpy as jnp
      >>> model = ConvNet((8, 8, 1), 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        channels: Widths = (16, 32),
        hidden: Positive = 64,
        norm: Literal["none", "batch"] = "none",
        rngs: nnx.Rngs,
    ):
        height, width, depth = axes("convnet", shape, "height", "width", "channels")
        most = min(height, width).bit_length() - 1
        if len(channels) > most:
            raise ValueError(
                f"channels must name at most {most} convolutions for images of {height} x {width} "
                f"pixels, which each of them halves, got {list(channels)}."
            )
        depths = [depth, *channels]
        names = ["channels" if i % 2 == 0 else "filters" for i in range(len(depths))]
        layers = zip(depths[:-1], depths[1:], names[:-1], names[1:], strict=True)
        self.conv = nnx.List(
            [
                nnx.Conv(
                    n,
                    m,
                    kernel_size=(3, 3),
                    kernel_metadata=axis_names(None, None, *ends),
                    rngs=rngs,
                )
                for n, m, *ends in layers
            ]
        )
        norms = [nnx.BatchNorm(n, rngs=rngs) for n in channels] if norm == "batch" else []
        self.norm = nnx.List(norms)
        pixels = (height >> len(channels)) * (width >> len(channels))
        self.hidden = nnx.Linear(
            pixels * depths[-1], hidden, kernel_metadata=axis_names("embed", "mlp"), rngs=rngs
        )
        self.out = nnx.Linear(hidden, classes, kernel_metadata=axis_names("mlp", None), rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of images ``[batch, height, width, channels]``."""
        x = inputs
        for i, layer in enumerate(self.conv):
            x = layer(x)
            if self.norm:
                x = self.norm[i](x)
            x = nnx.max_pool(nnx.relu(x), (2, 2), strides=(2, 2))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.out(x)
