"""Next token: which byte or token follows, at every place of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from dst.core.registry import named
from dst.core.typing import Array
from dst.train.objectives.classification import cross_entropy


@named("next-token", labels="class")
@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the following token, in nats, and as bits per byte.

    Attributes:
      bytes_per_token: on average over the text; null: as the data set says, else 1.
    """

    bytes_per_token: float | None = None

    def of(self, units: tuple[float, ...] | None) -> NextToken:
        """The objective for a data set whose tokens have so many bytes."""
        if self.bytes_per_token is not None or units is None:
            return self
        return replace(self, bytes_per_token=units[0])

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over all places."""
        inputs, labels = batch
        scores = cross_entropy(model(inputs), labels)
        scores["bits_per_byte"] = scores["loss"] / (math.log(2) * (self.bytes_per_token or 1))
        return scores["loss"], scores
