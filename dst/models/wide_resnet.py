"""Wide residual networks for CIFAR; WRN-22-2 is the one of RigL's paper."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.axes import axis_names
from dst.models.batchnorm import he, norm
from dst.models.shapes import axes
from dst.rules.fields import Depth, Positive


class Block(nnx.Module):
    """Twice norm, ReLU and a 3 x 3 convolution, and a shortcut.

    Where channels change, the shortcut is a 1 x 1 convolution of the normalized input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.first_norm = norm(inputs, rngs)
        self.first = _conv(inputs, outputs, 3, stride, rngs, ("channels", "filters"))
        self.second_norm = norm(outputs, rngs)
        self.second = _conv(outputs, outputs, 3, 1, rngs, ("filters", "channels"))
        changes, names = stride > 1 or inputs != outputs, ("channels", None)
        self.project = _conv(inputs, outputs, 1, stride, rngs, names) if changes else None

    def __call__(self, inputs: Array) -> Array:
        """``[batch, height / stride, width / stride, outputs]``."""
        x = nnx.relu(self.first_norm(inputs))
        shortcut = self.project(x) if self.project else inputs
        x = nnx.relu(self.second_norm(self.first(x)))
        return self.second(x) + shortcut


@named("wide-resnet", convolutions=True)
class WideResNet(nnx.Module):
    """WRN-depth-widen: three stages of pre-activation blocks; by default WRN-22-2.

    Call ``model.train()`` or ``model.eval()`` for batch or running statistics of its norms.

    Args:
      shape: ``(height, width, channels)`` of one image.
      classes: number of outputs.
      depth: convolutions on the longest path; 4 more than a multiple of 6.
      widen: factor of the 16, 32 and 64 channels of the stages.
      rngs: of the initial weights.

    Raises:
      ValueError: no images, or a depth that no number of blocks has.

    Example:
      >>> import jax.numpy as jnp
      >>> model = WideResNet((8, 8, 1), 10, depth=10, widen=1, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)

    References:
      Zagoruyko and Komodakis 2016, "Wide Residual Networks" (arXiv 1605.07146), tables 1 and 4.

    Checked against: the paper's numbers of parameters (WRN-40-4, 16-8, 22-8, 28-10).
    Differs from the paper: no dropout.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        depth: Depth = 22,
        widen: Positive = 2,
        rngs: nnx.Rngs,
    ):
        per_stage, rest = divmod(depth - 4, 6)
        if rest or per_stage < 1:
            raise ValueError(
                f"depth must be 4 more than a multiple of 6 (10, 16, 22, 28, 40), got {depth}."
            )
        *_, inputs = axes("wide-resnet", shape, "height", "width", "channels")
        self.stem = _conv(inputs, 16, 3, 1, rngs, (None, "channels"))
        blocks, channels = [], 16
        for stage in range(3):
            for i in range(per_stage):
                outputs, stride = 16 * widen << stage, 2 if stage and not i else 1
                blocks.append(Block(channels, outputs, stride, rngs=rngs))
                channels = outputs
        self.block = nnx.List(blocks)
        self.norm = norm(channels, rngs)
        last = axis_names("channels", None)
        self.out = nnx.Linear(channels, classes, kernel_metadata=last, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of images ``[batch, height, width, channels]``."""
        x = self.stem(inputs)
        for block in self.block:
            x = block(x)
        return self.out(nnx.relu(self.norm(x)).mean(axis=(1, 2)))


def _conv(
    inputs: int,
    outputs: int,
    window: int,
    stride: int,
    rngs: nnx.Rngs,
    names: tuple[str | None, str | None],
) -> nnx.Conv:
    half = (window // 2, window // 2)
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(window, window),
        strides=stride,
        padding=(half, half),
        use_bias=False,
        kernel_init=he(),
        kernel_metadata=axis_names(None, None, *names),
        rngs=rngs,
    )
