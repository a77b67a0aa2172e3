"""LeNet-5 as the pruning literature trains it: 430,500 weights on 28 x 28 pixels."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.axes import axis_names
from dst.models.shapes import axes
from dst.rules.fields import Positive, Widths


@named("lenet5", convolutions=True)
class LeNet5(nnx.Module):
    """Two convolutions of 5 x 5 with 2 x 2 max-pooling, one hidden layer, ReLU throughout.

    Args:
      shape: ``(height, width, channels)`` of one image.
      classes: number of outputs.
      channels: output channels of the two convolutions, which do not pad.
      hidden: width of the hidden layer.
      rngs: of the initial weights.

    Raises:
      ValueError: no images, or images too small for two convolutions and poolings.

    Example:
      >>> import jax.numpy as jnp
      >>> model = LeNet5((28, 28, 1), 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 28, 28, 1))).shape
      (2, 10)

    References:
      LeCun et al. 1998, "Gradient-based learning applied to document recognition"; widths are
      those of Caffe's example, which Han et al. 2015 (arXiv 1506.02626) and most since prune.

    Checked against: the number of parameters in Han et al., 431 K.
    Differs from LeCun's: more channels, max-pooling, ReLU, softmax outputs.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        channels: Widths = (20, 50),
        hidden: Positive = 500,
        rngs: nnx.Rngs,
    ):
        height, width, depth = axes("lenet5", shape, "height", "width", "channels")
        rows, columns = (((n - 4) // 2 - 4) // 2 for n in (height, width))
        if min(rows, columns) < 1:
            raise ValueError(
                f"LeNet-5 needs images of at least 16 x 16 pixels, got {height} x {width}."
            )
        first, second = channels
        self.conv = nnx.List(
            [
                nnx.Conv(
                    n,
                    m,
                    kernel_size=(5, 5),
                    padding="VALID",
                    kernel_metadata=axis_names(None, None, *ends),
                    rngs=rngs,
                )
                for n, m, *ends in (
                    (depth, first, None, "filters"),
                    (first, second, "filters", "channels"),
                )
            ]
        )
        pixels = rows * columns * second
        self.hidden = nnx.Linear(
            pixels, hidden, kernel_metadata=axis_names("embed", "mlp"), rngs=rngs
        )
        self.out = nnx.Linear(hidden, classes, kernel_metadata=axis_names("mlp", None), rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of images ``[batch, height, width, channels]``."""
        x = inputs
        for layer in self.conv:
            x = nnx.max_pool(nnx.relu(layer(x)), (2, 2), strides=(2, 2))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.out(x)
