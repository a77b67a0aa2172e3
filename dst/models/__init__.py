"""Networks in Flax NNX, one architecture per file."""

from dst.models.batchnorm import recalibrate
from dst.models.convnet import ConvNet
from dst.models.decoder import Decoder
from dst.models.lenet5 import LeNet5
from dst.models.mlp import MLP
from dst.models.mobilenet import MobileNetV1
from dst.models.resnet import ResNet20, ResNet50
from dst.models.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "ConvNet",
    "Decoder",
    "LeNet5",
    "MobileNetV1",
    "ResNet20",
    "ResNet50",
    "WideResNet",
    "recalibrate",
]
