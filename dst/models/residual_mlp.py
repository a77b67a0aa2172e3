"""A multilayer perceptron whose hidden layers add to what they get: the one of MNIST-1D."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax import nnx

from dst.core.registry import named
from dst.core.typing import Array
from dst.models.axes import axis_names
from dst.rules.fields import Positive


@named("residual-mlp")
class ResidualMLP(nnx.Module):
    """A layer with ReLU, then ``x + relu(layer(x))`` for each block, then a linear layer.

    Args:
      shape: of one input, without the batch axis; inputs are flattened.
      classes: number of outputs.
      width: of all hidden layers.
      blocks: layers with a shortcut.
      rngs: of the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> model = ResidualMLP((40, 1), 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 40, 1))).shape
      (2, 10)

    References:
      Greydanus and Kobak 2020, "Scaling Down Deep Learning with MNIST-1D" (arXiv 2011.14439).

    Checked against: MLPBase in notebooks/models.py of greydanus/mnist1d at 579085a, 15,210
    parameters: tests/models/test_models.py.
    Differs from that code: initial weights are LeCun's, biases start at zero.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        width: Positive = 100,
        blocks: Positive = 1,
        rngs: nnx.Rngs,
    ):
        def layer(inputs: int, outputs: int, *names: str | None) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_metadata=axis_names(*names), rngs=rngs)

        self.first = layer(math.prod(shape), width, None, "embed")
        self.block = nnx.List([layer(width, width, "embed", "mlp") for _ in range(blocks)])
        self.out = layer(width, classes, "embed", None)

    def __call__(self, inputs: Array) -> Array:
        """Logits ``[batch, classes]`` of inputs ``[batch, *shape]``."""
        x = nnx.relu(self.first(inputs.reshape(len(inputs), -1)))
        for layer in self.block:
            x = x + nnx.relu(layer(x))
        return self.out(x)
