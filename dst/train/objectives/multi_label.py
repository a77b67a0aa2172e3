"""Multi-label classification: of each class, whether an example belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from dst.core.registry import named
from dst.core.typing import Array, ArrayLike, Float
from dst.train.objectives.shapes import as_outputs


@named("multi-label", labels="multi-label")
@dataclass(frozen=True)
class MultiLabel:
    """Cross-entropy of a sigmoid for each class, in nats.

    A class counts as found where its probability is above one half. Metrics: `f1`, the harmonic
    mean of precision and recall over all examples and classes together (micro average);
    `label_accuracy`, the fraction of right answers about single classes.

    Checked against: scikit-learn's `f1_score` and `log_loss`, in tests/train/test_objectives.py.
    """

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over examples and classes; the metrics are means over both."""
        inputs, labels = batch
        logits = model(inputs).astype(jnp.float32)
        return _loss(logits, as_outputs(labels, logits, "multi-label"))

    def figures(self, means: dict[str, ArrayLike]) -> dict[str, ArrayLike]:
        """Scalars of the means over all examples."""
        found, of = means["right"], means["said"] + means["true"]
        return {
            "loss": means["loss"],
            "f1": 2 * found / jnp.maximum(of, 1e-12),  # 0 where there is nothing to find
            "label_accuracy": means["label_accuracy"],
        }


def _loss(
    logits: Float[Array, "n classes"], labels: Float[Array, "n classes"]
) -> tuple[Array, dict[str, Array]]:
    said, true = logits > 0, labels > 0.5
    means = {"right": said & true, "said": said, "true": true, "label_accuracy": said == true}
    loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    return loss, {name: jnp.mean(x.astype(jnp.float32)) for name, x in means.items()}
