"""A decoder-only language model: the network on which sparse training of text is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array, Float, Int, PyTree
from dst.models.axes import axis_names
from dst.models.decoder_block import Attend, Attention, Block, causal, linear
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
      >>> model(jnp.zeros((2, 16), int)).shape
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
            # Logits begin with variance 1 at every width, and tokens not far below what blocks add.
            embedding_init=normal(width**-0.5),
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
        self.unembedding = None if tied else linear(width, classes, ("embed", "vocab"), rngs)

    @property
    def stacked(self) -> Mapping[str, int]:
        """The argument of that name of :func:`dst.sparsify`: one layer per slice."""
        return {"blocks/**": 1} if self.scan else {}

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length classes"]:
        """Logits of the token that follows each position, from that position and those before.

        Raises:
          ValueError: a sequence longer than the context.
        """
        self._check(tokens)
        return self.logits(self.hidden(tokens, causal, None)[0])

    def hidden(
        self, tokens: Int[Array, "batch length"], attend: Attend, kept: PyTree
    ) -> tuple[Float[Array, "batch length width"], PyTree]:
        """The residual stream after the last block, with attention of another kind.

        Args:
          tokens: of any length.
          attend: ``attend(rotary, query, key, value, kept) -> (mixed, kept)`` of one layer, before
            rotation; :func:`causal` is that of the model.
          kept: what the layers have: a list of one tree per layer, or, under ``scan``, one tree
            with a leading axis of layers. None: nothing.

        Returns:
          the stream, and what the layers have now.
        """
        x = self.embedding(tokens)
        if self.scan:

            def apply(x: Array, block: Block, kept: PyTree) -> tuple[Array, PyTree]:
                return block.attending(x, attend, kept)

            over_layers = nnx.scan(
                apply,
                in_axes=(nnx.Carry, 0, 0),
                out_axes=(nnx.Carry, 0),
                transform_metadata=_LAYERS,
            )
            x, kept = over_layers(x, self.blocks, kept)
        else:
            trees = []
            for block, tree in zip(self.blocks, kept or [None] * self.layers, strict=True):
                x, tree = block.attending(x, attend, tree)
                trees.append(tree)
            kept = trees
        return x, kept

    def hidden_states(
        self, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "layers batch length width"]:
        """The residual stream after each block.

        Raises:
          ValueError: a sequence longer than the context.
        """
        self._check(tokens)
        x = self.embedding(tokens)
        if self.scan:
            over_layers = nnx.scan(
                _apply_and_keep,
                in_axes=(nnx.Carry, 0),
                out_axes=(nnx.Carry, 0),
                transform_metadata=_LAYERS,
            )
            states: Array = over_layers(x, self.blocks)[1]
            return states
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return jnp.stack(found)

    def logits(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length classes"]:
        """Of the token that follows, from the residual stream after the last block."""
        x = self.final_norm(x)
        return self.embedding.attend(x) if self.unembedding is None else self.unembedding(x)

    def _check(self, tokens: Array) -> None:
        if (length := tokens.shape[1]) > self.context:
            raise ValueError(f"sequences must be at most {self.context} tokens long, got {length}.")


def _apply_and_keep(x: Array, block: Block) -> tuple[Array, Array]:
    x = block(x)
    return x, x
