"""Classification: the right one of several classes, at every place where there is a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from dst.core.registry import named
from dst.core.typing import Array, Float, Int


@named("classification", labels="class")
@dataclass(frozen=True)
class Classification:
    """Cross-entropy of logits, in nats; the metrics have the accuracy, in [0, 1], too."""

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over all labels."""
        inputs, labels = batch
        scores = cross_entropy(model(inputs), labels)
        return scores["loss"], scores


def cross_entropy(
    logits: Float[Array, "*places classes"], labels: Int[Array, "*places"]
) -> dict[str, Array]:
    """Loss and accuracy of a batch, float32 scalars, whatever the type of the logits."""
    logits = logits.astype(jnp.float32)
    return {
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(),
        "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels),
    }
