"""A block of a decoder: causal attention and a gated feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx
from jax.nn.initializers import variance_scaling

from dst.core.typing import Array, Float, PyTree
from dst.models.axes import axis_names
from dst.models.rotary import Rotary

# How queries, keys and values of a layer mix, all before rotation and ``[batch, length, heads,
# size]``, and what the layer keeps: ``(rotary, query, key, value, kept) -> (mixed, kept)``.
Attend = Callable[[Rotary, Array, Array, Array, PyTree], tuple[Array, PyTree]]


class Block(nnx.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(
        self,
        width: int,
        attention: Attention,
        hidden: int,
        *,
        epsilon: float,
        activation: Callable[[Array], Array],
        depth: int,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs)
        self.attention = attention
        self.feed_forward_norm = nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs)
        self.feed_forward = SwiGLU(width, hidden, activation=activation, depth=depth, rngs=rngs)

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.attending(x, causal, None)[0]

    def attending(
        self, x: Float[Array, "batch length width"], attend: Attend, kept: PyTree
    ) -> tuple[Float[Array, "batch length width"], PyTree]:
        """The same with attention of another kind, and what it keeps."""
        mixed, kept = self.attention.attending(self.attention_norm(x), attend, kept)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), kept


def causal(
    rotary: Rotary, query: Array, key: Array, value: Array, kept: PyTree
) -> tuple[Array, PyTree]:
    """Every position attends to itself and those before it, which count from zero."""
    query, key = rotary(query), rotary(key)
    return jax.nn.dot_product_attention(query, key, value, is_causal=True), kept


class Attention(nnx.Module):
    """Causal attention of rotated queries and keys, several queries to one key and value.

    Args:
      width: of inputs and outputs.
      heads: of the queries.
      kv_heads: of keys and values; query ``h`` uses number ``h // (heads / kv_heads)``.
      rotary: how channels of a head turn; it knows their number.
      bias: whether queries, keys and values have one.
      depth: blocks in the network; the more, the smaller the initial output.
      rngs: of the initial weights.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        rotary: Rotary,
        *,
        bias: bool = False,
        depth: int,
        rngs: nnx.Rngs,
    ):
        if heads % kv_heads:
            raise ValueError(f"kv_heads must divide heads, got heads {heads}, kv_heads {kv_heads}.")
        self.heads, self.kv_heads, self.rotary = heads, kv_heads, rotary
        inward, outward = ("embed", "heads"), ("heads", "embed")
        keys = kv_heads * rotary.size
        self.query = linear(width, heads * rotary.size, inward, rngs, bias=bias)
        self.key = linear(width, keys, inward, rngs, bias=bias)
        self.value = linear(width, keys, inward, rngs, bias=bias)
        self.output = linear(heads * rotary.size, width, outward, rngs, scale=1 / (2 * depth))

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.attending(x, causal, None)[0]

    def attending(
        self, x: Float[Array, "batch length width"], attend: Attend, kept: PyTree
    ) -> tuple[Float[Array, "batch length width"], PyTree]:
        """The same with attention of another kind, and what it keeps."""

        def heads(y: Array) -> Array:
            return y.reshape(*y.shape[:2], -1, self.rotary.size)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        mixed, kept = attend(self.rotary, query, key, value, kept)
        return self.output(mixed.reshape(*x.shape[:2], -1)), kept


class SwiGLU(nnx.Module):
    """``down(activation(gate(x)) * up(x))``; with ``silu`` SwiGLU, with ``relu`` ReGLU.

    Args:
      width: of inputs and outputs.
      hidden: width between.
      activation: a function, or a module such as :mod:`dst.activations` puts there.
      depth: blocks in the network; the more, the smaller the initial output.
      rngs: of the initial weights.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Callable[[Array], Array] = nnx.silu,
        depth: int,
        rngs: nnx.Rngs,
    ):
        inward, outward = ("embed", "mlp"), ("mlp", "embed")
        self.activation = activation
        self.gate = linear(width, hidden, inward, rngs)
        self.up = linear(width, hidden, inward, rngs)
        self.down = linear(hidden, width, outward, rngs, scale=1 / (2 * depth))

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def linear(
    inputs: int,
    outputs: int,
    names: tuple[str, str],
    rngs: nnx.Rngs,
    *,
    scale: float = 1.0,
    bias: bool = False,
) -> nnx.Linear:
    """A projection whose initial variance is ``scale / inputs``, with names of its axes."""
    # Branches that end in the residual stream begin smaller, so that its variance does not grow
    # with depth (GPT-2).
    initial = variance_scaling(scale, "fan_in", "truncated_normal")
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=initial,
        kernel_metadata=axis_names(*names),
        bias_metadata=axis_names(names[1]),
        rngs=rngs,
    )
