"""Networks in Flax NNX, one architecture per file.

A file marks its network with ``@named("name")``. Configs find it by that mark and read its
arguments from the signature, without importing Flax. ``dst.models.Name`` imports it.

A network of your own is ``make(shape, classes, *, rngs, **sizes) -> nnx.Module``; of ``shape``,
``classes`` and ``rngs`` it takes what it needs::

    # nets.py, beside the config: model: {import: "nets:Small", width: 32}
    class Small(nnx.Module):
        def __init__(self, shape, classes, *, width: int = 16, rngs):
            self.hidden = nnx.Linear(math.prod(shape), width, rngs=rngs)
            self.out = nnx.Linear(width, classes, rngs=rngs)

        def __call__(self, inputs):
            return self.out(nnx.relu(self.hidden(inputs.reshape(len(inputs), -1))))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dst.core import extras, lazy
from dst.core.registry import Registry

extras.check("flax")

if TYPE_CHECKING:  # for editors; at run time the marks are what counts
    from dst.models.batchnorm import recalibrate as recalibrate
    from dst.models.convnet import ConvNet as ConvNet
    from dst.models.convnet1d import ConvNet1d as ConvNet1d
    from dst.models.decoder import Decoder as Decoder
    from dst.models.encoder import Encoder as Encoder
    from dst.models.lenet5 import LeNet5 as LeNet5
    from dst.models.mlp import MLP as MLP
    from dst.models.mobilenet import MobileNetV1 as MobileNetV1
    from dst.models.pretrained import load as load
    from dst.models.pretrained import save as save
    from dst.models.pretrained import tokenizer as tokenizer
    from dst.models.pretrained_network import pretrained_decoder as pretrained_decoder
    from dst.models.residual_mlp import ResidualMLP as ResidualMLP
    from dst.models.resnet import ResNet20 as ResNet20
    from dst.models.resnet import ResNet50 as ResNet50
    from dst.models.slicegpt import sliced as sliced
    from dst.models.smaller_decoder import smaller as smaller
    from dst.models.wide_resnet import WideResNet as WideResNet

REGISTRY = Registry("model", "dst.models")

# What configs do not name: files and names there.
_OTHERS = {
    "Encoder": "encoder",
    "load": "pretrained",
    "recalibrate": "batchnorm",
    "save": "pretrained",
    "sliced": "slicegpt",
    "smaller": "smaller_decoder",
    "tokenizer": "pretrained",
}

__all__ = sorted({entry.attribute for entry in REGISTRY.values()} | set(_OTHERS))


def __getattr__(name: str) -> Any:
    for entry in REGISTRY.values():
        if entry.attribute == name:
            return entry.load()
    return lazy.load(__name__, _OTHERS, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
