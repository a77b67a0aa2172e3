"""Biases of a decoder's projections, which most of its family do without."""

from __future__ import annotations

from typing import Any

from dst.models.decoder import Decoder
from dst.oneshot.structured.modules import add_bias


def add_biases(model: Decoder, *, attention: bool, feed_forward: bool) -> None:
    """Gives every projection of these parts a bias of zeros where it has none.

    Args:
      model: a decoder; changed in place.
      attention: queries, keys, values and outputs.
      feed_forward: gate, up and down.
    """
    blocks: list[Any] = [model.blocks] if model.scan else list(model.blocks)
    for block in blocks:
        part, hidden = block.attention, block.feed_forward
        layers = [part.query, part.key, part.value, part.output] if attention else []
        layers += [hidden.gate, hidden.up, hidden.down] if feed_forward else []
        for layer in layers:
            add_bias(layer)
