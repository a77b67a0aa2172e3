"""MobileNet-v1: depthwise and pointwise convolutions by turns."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.batchnorm import ConvNorm
from dst.models.shapes import axes
from dst.rules.fields import NotNegative

# Output channels and stride of each pair.
_PAIRS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


class Pair(nnx.Module):
    """A depthwise 3 x 3 and a pointwise 1 x 1 convolution, each with norm and ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.spatial = ConvNorm(
            inputs, inputs, 3, stride, depthwise=True, padding="SAME", rngs=rngs
        )
        self.pointwise = ConvNorm(inputs, outputs, 1, names=("filters", "channels"), rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """``[batch, height / stride, width / stride, outputs]``."""
        return jax.nn.relu6(self.pointwise(jax.nn.relu6(self.spatial(inputs))))


@named("mobilenet-v1", convolutions=True)
class MobileNetV1(nnx.Module):
    """MobileNet-v1 with the topology of Keras: 4,209,088 weights.

    Depthwise kernels stay dense by default, as in RigL's paper: together they are 1 % of the
    weights. Call ``model.train()`` or ``model.eval()`` for batch or running statistics.

    Args:
      shape: ``(height, width, channels)`` of one image; the paper's is ``(224, 224, 3)``.
      classes: number of outputs.
      width: factor of all channels (the paper's alpha).
      rngs: of the initial weights.

    Raises:
      ValueError: no images.

    References:
      Howard et al. 2017, "MobileNets" (arXiv 1704.04861), table 1.

    Checked against: the number of parameters that Keras lists for its MobileNet, 4,253,864:
    tests/models/test_models.py; costs of sparse variants by the counter's rules:
    tests/flops/test_costs.py.
    Differs from Keras: no dropout before the classifier; He's initial weights.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        width: NotNegative = 1.0,
        rngs: nnx.Rngs,
    ):
        channels = int(32 * width)
        *_, inputs = axes("mobilenet-v1", shape, "height", "width", "channels")
        self.stem = ConvNorm(inputs, channels, 3, 2, padding="SAME", rngs=rngs)
        pairs = []
        for outputs, stride in _PAIRS:
            pairs.append(Pair(channels, int(outputs * width), stride, rngs=rngs))
            channels = int(outputs * width)
        self.pair = nnx.List(pairs)
        self.out = nnx.Conv(channels, classes, kernel_size=(1, 1), rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of images ``[batch, height, width, channels]``."""
        x = jax.nn.relu6(self.stem(inputs))
        for pair in self.pair:
            x = pair(x)
        return self.out(x.mean(axis=(1, 2), keepdims=True))[:, 0, 0]
