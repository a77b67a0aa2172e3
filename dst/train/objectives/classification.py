"""Classification: the right one of several classes, at every place where there is a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array, Float, Int

_LOOKED_AT = 1024  # test examples whose labels are compared with `classes`


@named("classification", labels="class")
@dataclass(frozen=True)
class Classification:
    """Cross-entropy of logits, in nats; the metrics have the accuracy, in [0, 1], too.

    Attributes:
      classes: those that compete; the outputs of all others count as minus infinity. Every label
        must be one of them. null: all.
    """

    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is None:
            return
        for i in self.classes:
            checks.integer("classes", i, at_least=0)
        if len(set(self.classes)) < max(len(self.classes), 2):
            raise ValueError(
                f"classes must be two different ones at least, or null for all, got "
                f"{list(self.classes)}."
            )

    def check(self, dataset: Any) -> None:
        """Refuses a data set that has other classes.

        Args:
          dataset: the :class:`dst.train.data.Dataset`.

        Raises:
          ValueError: classes that it has not, or a label of a test example that is none of them.
        """
        if self.classes is None:
            return
        if max(self.classes) >= dataset.classes:
            raise ValueError(
                f"objective.classes must be below {dataset.classes}, the number of classes, got "
                f"{list(self.classes)}."
            )
        _, labels = dataset.test.take(np.arange(min(len(dataset.test), _LOOKED_AT)))
        if others := sorted({*np.unique(labels).tolist()} - {*self.classes}):
            raise ValueError(
                f"objective.classes are {list(self.classes)}, but test examples are of the classes "
                f"{others}, too. Choose data of these classes alone, or leave classes out."
            )

    @property
    def arrays(self) -> Array | None:
        """The classes, so that tasks of as many classes share their compiled programs."""
        return None if self.classes is None else jnp.array(self.classes, jnp.int32)

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array, arrays: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over all labels."""
        inputs, labels = batch
        logits = model(inputs)
        if self.classes is not None:
            logits = self._masked(logits, self.arrays if arrays is None else arrays)
        scores = cross_entropy(logits, labels)
        return scores["loss"], scores

    def _masked(self, logits: Array, classes: Array | None) -> Array:
        if max(self.classes or ()) >= logits.shape[-1]:
            raise ValueError(
                f"objective.classes must be below {logits.shape[-1]}, the number of outputs, got "
                f"{list(self.classes or ())}."
            )
        allowed = jnp.zeros(logits.shape[-1:], bool).at[classes].set(True)
        return jnp.where(allowed, logits, -jnp.inf)


def cross_entropy(
    logits: Float[Array, "*places classes"], labels: Int[Array, "*places"]
) -> dict[str, Array]:
    """Loss and accuracy of a batch, float32 scalars, whatever the type of the logits."""
    logits = logits.astype(jnp.float32)
    return {
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(),
        "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels),
    }
