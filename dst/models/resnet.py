"""Residual networks: ResNet-50 for photographs, ResNet-20 for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.axes import axis_names
from dst.models.batchnorm import ConvNorm
from dst.models.shapes import axes
from dst.rules.fields import Positive, Stages


class Bottleneck(nnx.Module):
    """1 x 1 to ``width`` channels, 3 x 3, 1 x 1 to four times as many, and a shortcut.

    The stride is in the 3 x 3 ("v1.5"). The first block of a stage projects its shortcut.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs):
        outputs = self.expansion * width
        inward, outward = ("channels", "filters"), ("filters", "channels")
        self.reduce = ConvNorm(inputs, width, 1, names=inward, rngs=rngs)
        self.conv = ConvNorm(width, width, 3, stride, names=outward, rngs=rngs)
        self.expand = ConvNorm(width, outputs, 1, names=outward, rngs=rngs)
        self.project = (
            ConvNorm(inputs, outputs, 1, stride, names=("channels", None), rngs=rngs)
            if stride > 1 or inputs != outputs
            else None
        )

    def __call__(self, inputs: Array) -> Array:
        """``[batch, height / stride, width / stride, 4 width]``."""
        x = nnx.relu(self.reduce(inputs))
        x = self.expand(nnx.relu(self.conv(x)))
        return nnx.relu(x + (self.project(inputs) if self.project else inputs))


class Basic(nnx.Module):
    """Two 3 x 3 convolutions and a shortcut without weights: missing channels are zero."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.stride = stride
        inward, outward = ("channels", "filters"), ("filters", "channels")
        self.first = ConvNorm(inputs, width, 3, stride, names=inward, rngs=rngs)
        self.second = ConvNorm(width, width, 3, names=outward, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """``[batch, height / stride, width / stride, width]``."""
        x = self.second(nnx.relu(self.first(inputs)))
        kept = inputs[:, :: self.stride, :: self.stride]
        missing = x.shape[-1] - kept.shape[-1]
        return nnx.relu(x + jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (0, missing))))


def _blocks(
    block: type[Bottleneck] | type[Basic], stages: Sequence[int], width: int, rngs: nnx.Rngs
) -> list[nnx.Module]:
    """All blocks: every stage but the first halves the image, and doubles the width."""
    blocks: list[nnx.Module] = []
    channels = width
    for stage, depth in enumerate(stages):
        for i in range(depth):
            stride = 2 if stage and not i else 1
            blocks.append(block(channels, width << stage, stride, rngs=rngs))
            channels = block.expansion * width << stage
    return blocks


@named("resnet50", convolutions=True)
class ResNet50(nnx.Module):
    """ResNet-50, version 1.5: 53 convolutions and a linear layer; 25.5 M weights.

    Call ``model.train()`` or ``model.eval()`` for batch or running statistics of its norms.

    Args:
      shape: ``(height, width, channels)`` of one image; the paper's is ``(224, 224, 3)``.
      classes: number of outputs.
      stages: blocks in each stage.
      width: channels of the first stage; later ones double it.
      rngs: of the initial weights.

    Raises:
      ValueError: no images.

    References:
      He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), table 1.

    Checked against: torchvision's resnet50 (number of parameters); README.md of
    google-research/rigl at d39fc7d (costs of sparse variants): tests/flops/test_costs.py.
    Differs from the paper: the stride of a block is in its 3 x 3 convolution, as in all current
    codes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        stages: Stages = (3, 4, 6, 3),
        width: Positive = 64,
        rngs: nnx.Rngs,
    ):
        *_, inputs = axes("resnet50", shape, "height", "width", "channels")
        self.stem = ConvNorm(inputs, width, 7, 2, names=(None, "channels"), rngs=rngs)
        self.block = nnx.List(_blocks(Bottleneck, stages, width, rngs))
        features = Bottleneck.expansion * width << (len(stages) - 1)
        last = axis_names("channels", None)
        self.out = nnx.Linear(features, classes, kernel_metadata=last, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of images ``[batch, height, width, channels]``."""
        x = nnx.relu(self.stem(inputs))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.block:
            x = block(x)
        return self.out(x.mean(axis=(1, 2)))


@named("resnet20", convolutions=True)
class ResNet20(nnx.Module):
    """ResNet-20 for images of 32 x 32: 19 convolutions and a linear layer; 0.27 M weights.

    Call ``model.train()`` or ``model.eval()`` for batch or running statistics of its norms.

    Args:
      shape: ``(height, width, channels)`` of one image.
      classes: number of outputs.
      stages: blocks in each stage; (9, 9, 9) is ResNet-56.
      width: channels of the first stage; later ones double it.
      rngs: of the initial weights.

    Raises:
      ValueError: no images.

    Example:
      >>> import jax.numpy as jnp
      >>> model = ResNet20((8, 8, 1), 10, stages=(1, 1), width=4, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)

    References:
      He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section
      4.2, shortcuts of option A.

    Checked against: the paper's table 6 (0.27 M parameters; 0.85 M for ResNet-56).
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        stages: Stages = (3, 3, 3),
        width: Positive = 16,
        rngs: nnx.Rngs,
    ):
        *_, inputs = axes("resnet20", shape, "height", "width", "channels")
        self.stem = ConvNorm(inputs, width, 3, names=(None, "channels"), rngs=rngs)
        self.block = nnx.List(_blocks(Basic, stages, width, rngs))
        features, last = width << (len(stages) - 1), axis_names("channels", None)
        self.out = nnx.Linear(features, classes, kernel_metadata=last, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of images ``[batch, height, width, channels]``."""
        x = nnx.relu(self.stem(inputs))
        for block in self.block:
            x = block(x)
        return self.out(x.mean(axis=(1, 2)))
