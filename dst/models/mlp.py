"""A multilayer perceptron; with widths 300 and 100 it is LeNet-300-100."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.axes import axis_names
from dst.rules.fields import Widths


@named("mlp")
class MLP(nnx.Module):
    """Fully connected layers with ReLU between them.

    Args:
      shape: of one input, without the batch axis; inputs are flattened.
      classes: number of outputs.
      hidden: widths of the hidden layers.
      rngs: of the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> model = MLP((8, 8, 1), 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)

    References:
      LeCun et al. 1998, "Gradient-based learning applied to document recognition" (LeNet-300-100).
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        hidden: Widths = (300, 100),
        rngs: nnx.Rngs,
    ):
        widths = [math.prod(shape), *hidden]
        # Every second width is split: a layer whose inputs are split sums what devices find.
        names = ["embed" if i % 2 == 0 else "mlp" for i in range(len(widths))]
        layers = zip(widths[:-1], widths[1:], names[:-1], names[1:], strict=True)
        self.hidden = nnx.List(
            [
                nnx.Linear(n, m, kernel_metadata=axis_names(*ends), rngs=rngs)
                for n, m, *ends in layers
            ]
        )
        last = axis_names(names[-1], None)
        self.out = nnx.Linear(widths[-1], classes, kernel_metadata=last, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of inputs ``[batch, *shape]``."""
        x = inputs.reshape(len(inputs), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)
