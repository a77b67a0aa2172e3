"""What a config says of a network: names and sizes only; the networks are in dst.models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dst.core import checks
from dst.train.config.schema import Choice, Option


@dataclass(frozen=True)
class MLP:
    """Fully connected layers with ReLU between them.

    Attributes:
      hidden: widths of the hidden layers.
    """

    hidden: tuple[int, ...] = (300, 100)

    def __post_init__(self) -> None:
        _widths("hidden", self.hidden)


@dataclass(frozen=True)
class ConvNet:
    """Convolutions of 3 x 3 with ReLU and 2 x 2 pooling, then one hidden layer.

    Attributes:
      channels: output channels of the convolutions.
      hidden: width of the hidden layer.
      norm: after every convolution: BatchNorm, or nothing.
    """

    channels: tuple[int, ...] = (16, 32)
    hidden: int = 64
    norm: Literal["none", "batch"] = "none"

    def __post_init__(self) -> None:
        _widths("channels", self.channels)
        checks.integer("hidden", self.hidden, at_least=1)


@dataclass(frozen=True)
class Decoder:
    """A decoder-only language model: RMSNorm, rotary embedding, causal attention, SwiGLU.

    Attributes:
      width: of the residual stream.
      layers: number of blocks.
      heads: of the queries.
      kv_heads: of keys and values; null: as many as heads.
      hidden: width of the feed-forward layer.
      tied: whether the logits use the embedding table.
      scan: whether the blocks are compiled as one, with a leading axis of layers.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None
    hidden: int = 512
    tied: bool = True
    scan: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "hidden"):
            checks.integer(name, getattr(self, name), at_least=1)
        if self.kv_heads is not None:
            checks.integer("kv_heads", self.kv_heads, at_least=1)


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5 for images of at least 16 x 16 pixels.

    Attributes:
      channels: output channels of the two convolutions.
      hidden: width of the hidden layer.
    """

    channels: tuple[int, ...] = (20, 50)
    hidden: int = 500

    def __post_init__(self) -> None:
        _widths("channels", self.channels)
        if len(self.channels) != 2:
            raise ValueError(f"channels must be two numbers, got {len(self.channels)}.")
        checks.integer("hidden", self.hidden, at_least=1)


@dataclass(frozen=True)
class ResNet20:
    """The residual network for small images, with BatchNorm.

    Attributes:
      stages: number of blocks per stage; three of three are ResNet-20.
      width: channels of the first stage; doubles from stage to stage.
    """

    stages: tuple[int, ...] = (3, 3, 3)
    width: int = 16

    def __post_init__(self) -> None:
        _widths("stages", self.stages)
        checks.integer("width", self.width, at_least=1)


@dataclass(frozen=True)
class ResNet50:
    """The residual network of bottlenecks for large images, v1.5.

    Attributes:
      stages: number of blocks per stage.
      width: channels of the first stage; doubles from stage to stage.
    """

    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    def __post_init__(self) -> None:
        _widths("stages", self.stages)
        checks.integer("width", self.width, at_least=1)


@dataclass(frozen=True)
class WideResNet:
    """The wide residual network for small images; WRN-22-2 by default.

    Attributes:
      depth: 4 more than a multiple of 6.
      widen: factor on the channels 16, 32, 64.
    """

    depth: int = 22
    widen: int = 2

    def __post_init__(self) -> None:
        checks.integer("depth", self.depth, at_least=10)
        checks.integer("widen", self.widen, at_least=1)


@dataclass(frozen=True)
class MobileNetV1:
    """MobileNet-v1 for large images; its depthwise kernels stay dense.

    Attributes:
      width: factor on all channels, above 0.
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        checks.at_least_zero("width", self.width)
        if 32 * self.width < 1:
            raise ValueError(f"width must leave at least one channel of 32, got {self.width}.")


def _widths(name: str, widths: tuple[int, ...]) -> None:
    if not widths:
        raise ValueError(f"{name} must name at least one layer, got an empty list.")
    for i, n in enumerate(widths):
        checks.integer(f"{name}[{i}]", n, at_least=1)


MODEL = Choice(
    {
        "mlp": Option(MLP),
        "convnet": Option(ConvNet),
        "lenet5": Option(LeNet5),
        "resnet20": Option(ResNet20),
        "resnet50": Option(ResNet50),
        "wide-resnet": Option(WideResNet),
        "mobilenet-v1": Option(MobileNetV1),
        "decoder": Option(Decoder),
    }
)
