"""Small networks in Flax NNX, one architecture per file."""

from dst.models.convnet import ConvNet
from dst.models.decoder import Decoder
from dst.models.mlp import MLP

__all__ = ["MLP", "ConvNet", "Decoder"]
