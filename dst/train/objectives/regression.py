"""Regression: one or several quantities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp

from dst.core.registry import named
from dst.core.typing import Array, ArrayLike, Float
from dst.train.objectives.shapes import as_outputs


@named("regression", labels="number")
@dataclass(frozen=True)
class Regression:
    """Mean squared error of targets as the data set normalises them.

    Metrics: `rmse`, the root of the mean squared error in the targets' own units; `r2`, the
    coefficient of determination, averaged over targets.

    Attributes:
      units: of each target, by what the data set divided it; null: as the data set says.

    Checked against: scikit-learn's `mean_squared_error` and `r2_score`, in
    tests/train/test_objectives.py.
    """

    softmax: ClassVar[bool] = False  # outputs are no logits

    units: tuple[float, ...] | None = None

    def of(self, units: tuple[float, ...] | None) -> Regression:
        """The objective for a data set that divided targets by these units."""
        return replace(self, units=units) if self.units is None else self

    def loss(
        self, model: Any, batch: tuple[Array, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over examples and targets; the metrics are means, one number per target."""
        inputs, labels = batch
        outputs = model(inputs).astype(jnp.float32)
        return _loss(outputs, as_outputs(labels, outputs, "regression"))

    def figures(self, means: dict[str, ArrayLike]) -> dict[str, ArrayLike]:
        """Scalars of the means over all examples."""
        error, variance = means["squared_error"], means["square"] - means["mean"] ** 2
        units = 1.0 if self.units is None else jnp.asarray(self.units, jnp.float32)
        # A target that never changes is explained by nothing; so says scikit-learn.
        varies = variance > 1e-12
        return {
            "loss": means["loss"],
            "rmse": jnp.sqrt(jnp.mean(error * units**2)),
            "r2": jnp.mean(jnp.where(varies, 1 - error / jnp.where(varies, variance, 1), 0)),
        }


def _loss(
    outputs: Float[Array, "n targets"], labels: Float[Array, "n targets"]
) -> tuple[Array, dict[str, Array]]:
    error = jnp.mean((outputs - labels) ** 2, axis=0)
    means = {"mean": labels.mean(0), "square": (labels**2).mean(0), "squared_error": error}
    return error.mean(), means
