"""Neurons that lost all their connections on one side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dst.report.contents import Run

_NAMED = 24


@dataclass(frozen=True)
class Unconnected:
    """Neurons of one layer without a connection.

    Attributes:
      path: of the layer.
      side: ``inputs`` or ``outputs``.
      numbers: which of them have no active connection in this layer.
      size: how many there are.
    """

    path: str
    side: str
    numbers: tuple[int, ...]
    size: int

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.numbers[:_NAMED]))
        rest = len(self.numbers) - _NAMED
        more = f" and {rest} more" if rest > 0 else ""
        lack = "an output" if self.side == "inputs" else "an input"
        many = f"{len(self.numbers)} of {self.size} {self.side}"
        return f"{self.path}: {many} are neurons without {lack}: {shown}{more}"


def unconnected(run: Run) -> list[Unconnected]:
    """Neurons without inputs, or without outputs, after training.

    Only matrices ``[inputs, outputs]`` and kernels ``[height, width, inputs, outputs]`` say which
    neurons they connect.
    """
    found: list[Unconnected] = []
    for path, mask in run.final.items():
        if mask.ndim not in (2, 4) or not mask.size:
            continue
        connected = mask.reshape(-1, *mask.shape[-2:]).any(axis=0)
        for side, axis in (("inputs", 1), ("outputs", 0)):
            alone = np.flatnonzero(connected.sum(axis=axis) == 0)
            if alone.size:
                size = connected.shape[1 - axis]
                found.append(Unconnected(path, side, tuple(alone.tolist()), size))
    return found


def sentence(run: Run) -> str:
    """What the list of unconnected neurons says; empty where no mask says it."""
    if not any(mask.ndim in (2, 4) for mask in run.final.values()):
        return ""
    if not unconnected(run):
        return "Every neuron has an input and an output in the sparse layers."
    return (
        "These neurons have no active connection on one side. Those without an input give a "
        "constant. Those without an output have no effect through this layer."
    )
