"""A decoder-only language model: the network on which sparse training of text is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
from flax import nnx
from jax.nn.initializers import normal, variance_scaling

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array, Float, Int
from dst.models.axes import axis_names
from dst.models.rotary import Rotary
from dst.models.shapes import axes
from dst.rules.fields import AboveZero, Depth, Positive

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"silu": nnx.silu, "relu": nnx.relu}
_LAYERS = {nnx.PARTITION_NAME: "layers"}  # the name of the axis of stacked blocks


@named("decoder", inputs="tokens")
class Decoder(nnx.Module):
    """Token embedding, pre-norm blocks of causal attention and SwiGLU, final norm, logits.

    Every projection is an ``nnx.Linear``, so that each sparse leaf is a matrix
    ``[inputs, outputs]``: heads are merged, as allocations count them. By its names the default
    selection takes the seven projections of every block and leaves dense what language-model
    pruning leaves dense: the token table, the norms, and the output head, which is that table
    transposed or, untied, a table of its own (``unembedding``).

    Args:
      shape: ``(context,)``, the longest sequence.
      classes: size of the vocabulary.
      width: of the residual stream.
      layers: number of blocks.
      heads: of the queries.
      kv_heads: of keys and values, each shared by ``heads / kv_heads`` queries; None: ``heads``.
      hidden: width of the feed-forward layer; 8/3 of ``width`` has the weights of a plain one of
        four times ``width``.
      head_size: channels of a head, an even number; None: ``width / heads``.
      bias: whether queries, keys and values have a bias.
      tied: whether the logits use the embedding table.
      rotary_base: of the angles by which queries and keys turn.
      rotary_factors: by which each pair of channels turns more slowly, ``head_size / 2`` numbers;
        None: one. Models for long contexts have them.
      epsilon: of the norms.
      activation: of the feed-forward gate. ``relu`` makes many of its outputs exact zeros.
      scan: whether the blocks are one module with a leading axis of layers, which compiles one
        block instead of all; sparse training then needs :attr:`stacked`.
      rngs: of the initial weights.

    Raises:
      ValueError: no sequences; heads that do not divide, or that leave no pairs to rotate; another
        number of factors; another activation.

    Example:
      >>> model = Decoder((16,), 256, width=32, layers=2, heads=4, hidden=64, rngs=nnx.Rngs(0))
      >>> model(jax.numpy.zeros((2, 16), int)).shape
      (2, 16, 256)

    References:
      Vaswani et al. 2017 (arXiv 1706.03762); Su et al. 2021, rotary embedding (2104.09864);
      Zhang and Sennrich 2019, RMSNorm (1910.07467); Shazeer 2020, SwiGLU (2002.05202); Ainslie et
      al. 2023, grouped-query attention (2305.13245); composed as in Touvron et al. 2023, LLaMA
      (2302.13971).

    Checked against: NumPy computations of rotation and attention, tests/models/test_decoder.py; a
    second forward pass in NumPy with the weights of SmolLM2, tests/models/test_smollm2.py.
    """

    config: str | None = None  # the JSON of the file that it was loaded from

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        width: Positive = 128,
        layers: Depth = 4,
        heads: Positive = 4,
        kv_heads: Positive | None = None,
        hidden: Positive = 512,
        head_size: Positive | None = None,
        bias: bool = False,
        tied: bool = True,
        rotary_base: AboveZero = 10_000.0,
        rotary_factors: Sequence[float] | None = None,
        epsilon: AboveZero = 1e-6,
        activation: Literal["silu", "relu"] = "silu",
        scan: bool = False,
        rngs: nnx.Rngs,
    ):
        (self.context,) = axes("decoder", shape, "context")
        checks.one_of("activation", activation, ACTIVATIONS)
        self.scan, self.layers, self.epsilon = scan, layers, epsilon
        kv_heads = kv_heads or heads
        if not head_size and width % heads:
            raise ValueError(
                f"heads must divide width, or head_size be given, got width {width}, heads {heads}."
            )
        size = head_size or width // heads
        rotary = Rotary(
            size, rotary_base, None if rotary_factors is None else tuple(rotary_factors)
        )
        self.embedding = nnx.Embed(
            classes,
            width,
            embedding_init=normal(0.02),
            embedding_metadata=axis_names("vocab", "embed"),
            rngs=rngs,
        )

        def block(rngs: nnx.Rngs) -> Block:
            attention = Attention(
                width, heads, kv_heads, rotary, bias=bias, depth=layers, rngs=rngs
            )
            return Block(
                width,
                attention,
                hidden,
                epsilon=epsilon,
                activation=ACTIVATIONS[activation],
                depth=layers,
                rngs=rngs,
            )

        self.blocks: Any
        if scan:
            one_per_layer = nnx.vmap(block, in_axes=0, out_axes=0, transform_metadata=_LAYERS)
            self.blocks = nnx.split_rngs(splits=layers)(one_per_layer)(rngs)
        else:
            self.blocks = nnx.List([block(rngs) for _ in range(layers)])
        self.final_norm = nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs)
        self.unembedding = None if tied else _linear(width, classes, ("embed", "vocab"), rngs)

    @property
    def stacked(self) -> Mapping[str, int]:
        """The argument of that name of :func:`dst.sparsify`: one layer per slice."""
        return {"blocks/**": 1} if self.scan else {}

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length classes"]:
        """Logits of the token that follows each position, from that position and those before.

        Raises:
          ValueError: a sequence longer than the context.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"sequences must be at most {self.context} tokens long, got {length}.")
        x = self.embedding(tokens)
        if self.scan:
            over_layers = nnx.scan(
                _apply, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry, transform_metadata=_LAYERS
            )
            x = over_layers(x, self.blocks)
        else:
            for block in self.blocks:
                x = block(x)
        x = self.final_norm(x)
        return self.embedding.attend(x) if self.unembedding is None else self.unembedding(x)


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
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


def _apply(x: Array, block: Block) -> Array:
    return block(x)


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
        self.query = _linear(width, heads * rotary.size, inward, rngs, bias=bias)
        self.key = _linear(width, keys, inward, rngs, bias=bias)
        self.value = _linear(width, keys, inward, rngs, bias=bias)
        self.output = _linear(heads * rotary.size, width, outward, rngs, scale=1 / (2 * depth))

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        def heads(y: Array) -> Array:
            return y.reshape(*y.shape[:2], -1, self.rotary.size)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        query, key = self.rotary(query), self.rotary(key)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.reshape(*x.shape[:2], -1))


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
        self.gate = _linear(width, hidden, inward, rngs)
        self.up = _linear(width, hidden, inward, rngs)
        self.down = _linear(hidden, width, outward, rngs, scale=1 / (2 * depth))

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def _linear(
    inputs: int,
    outputs: int,
    names: tuple[str, str],
    rngs: nnx.Rngs,
    *,
    scale: float = 1.0,
    bias: bool = False,
) -> nnx.Linear:
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
