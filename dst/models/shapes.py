"""What a network takes: an error that names the axes, where data have others."""

from __future__ import annotations

from collections.abc import Sequence


def axes(network: str, shape: Sequence[int], *names: str) -> tuple[int, ...]:
    """The sizes of the axes of one input.

    Args:
      network: its name, for the message.
      shape: of one input, without the batch axis.
      names: of the axes that the network needs.

    Raises:
      ValueError: another number of axes.

    Example:
      >>> axes("LeNet-5", (28, 28, 1), "height", "width", "channels")
      (28, 28, 1)
    """
    if len(shape) != len(names):
        raise ValueError(
            f"{network} needs inputs [{', '.join(names)}], got {list(shape)}. Choose data of that "
            "shape, or a network for this one; mlp takes inputs of any shape."
        )
    return tuple(shape)
