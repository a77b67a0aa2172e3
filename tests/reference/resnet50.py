"""ResNet-50 (stride in the 3x3) as a list of shapes, and its forward cost, after
google-research/rigl, rigl/imagenet_resnet/colabs/Resnet_50_Param_Flops_Counting.ipynb."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """A kernel, and how many output positions it is applied at."""

    shape: tuple[int, ...]
    positions: int


def kernels() -> dict[str, Kernel]:
    """All 54 kernels by name: ``s2b0/1`` is the first convolution of block 0 of stage 2.

    The first convolution reads the image padded to 230 and pads once more: 115 x 115 outputs,
    as in the counts published with RigL.
    """
    kernels = {"conv1": Kernel((7, 7, 3, 64), 115**2)}
    side, channels = 56, 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=2):
        for block in range(blocks):
            before = side
            if stage > 2 and block == 0:
                side //= 2
            name = f"s{stage}b{block}"
            kernels[f"{name}/1"] = Kernel((1, 1, channels, width), before**2)
            kernels[f"{name}/2"] = Kernel((3, 3, width, width), side**2)
            kernels[f"{name}/3"] = Kernel((1, 1, width, 4 * width), side**2)
            if block == 0:
                kernels[f"{name}/proj"] = Kernel((1, 1, channels, 4 * width), side**2)
            channels = 4 * width
    return kernels | {"fc": Kernel((2048, 1000), 1)}


def forward_flops(sparsity: Mapping[str, float]) -> float:
    """Multiplications and additions of one image; one more per output for bias or ReLU."""
    total = 0.0
    for name, kernel in kernels().items():
        *reduced, outputs = kernel.shape
        used = math.prod(reduced) * (1 - sparsity.get(name, 0.0))
        total += (2 * used + 1) * outputs * kernel.positions
    return total
