"""Next token: which byte or token follows, at every place of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dst.core.registry import named
from dst.core.typing import Array
from dst.train.objectives.classification import cross_entropy


@named("next-token", labels="class")
@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the following token, in nats; of bytes also as bits per byte."""

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over all places."""
        inputs, labels = batch
        scores = cross_entropy(model(inputs), labels)
        scores["bits_per_byte"] = scores["loss"] / math.log(2)
        return scores["loss"], scores
