"""An encoder-only language model: BERT, and the sentence encoders made of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from dst.core.typing import Array, Bool, Float, Int
from dst.models.axes import axis_names

_INITIAL = normal(0.02)  # of all matrices and tables, as in the paper's code


class Encoder(nnx.Module):
    """Token, position and segment embeddings, norm, blocks of attention and GELU, each then a norm.

    Every projection is an ``nnx.Linear`` with bias: heads are merged. Names are those of
    :class:`dst.models.Decoder` where the layer is the same.

    Args:
      context: the longest sequence.
      vocabulary: number of tokens.
      width: of the residual stream.
      layers: number of blocks.
      heads: of attention; divides ``width``.
      hidden: width of the feed-forward layer.
      segments: sentences that are told apart.
      pooler: whether there is a layer on the first token, which :meth:`pool` applies.
      epsilon: of the norms.
      rngs: of the initial weights.

    Raises:
      ValueError: heads that do not divide.

    Example:
      >>> model = Encoder(16, 100, width=32, layers=2, heads=4, hidden=64, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8), int)).shape
      (2, 8, 32)

    References:
      Devlin et al. 2019, BERT (arXiv 1810.04805); Reimers and Gurevych 2019, Sentence-BERT
      (1908.10084).

    Checked against: a forward pass in NumPy, and the similarities that the page of
    sentence-transformers/all-MiniLM-L6-v2 publishes: tests/models/test_encoder.py.
    Differs from the paper: no dropout.
    """

    config: str | None = None  # the JSON of the file that it was loaded from

    def __init__(
        self,
        context: int,
        vocabulary: int,
        *,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        segments: int = 2,
        pooler: bool = False,
        epsilon: float = 1e-12,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ValueError(f"heads must divide width, got width {width}, heads {heads}.")
        self.context, self.heads, self.epsilon = context, heads, epsilon
        self.embedding = _table(vocabulary, width, "vocab", rngs)
        self.positions = _table(context, width, None, rngs)
        self.segments = _table(segments, width, None, rngs)
        self.embedding_norm = _norm(width, epsilon, rngs)
        self.blocks = nnx.List(
            [Block(width, heads, hidden, epsilon, rngs=rngs) for _ in range(layers)]
        )
        self.pooler = _linear(width, width, ("embed", None), rngs) if pooler else None

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch length width"]:
        """The residual stream after the last block.

        Args:
          tokens: of each sequence.
          mask: True where a token is none of padding; None: everywhere.
          segments: which sentence each token belongs to; None: the first one.

        Raises:
          ValueError: a sequence longer than the context.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"sequences must be at most {self.context} tokens long, got {length}.")
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        segments = jnp.zeros_like(tokens) if segments is None else segments
        places = self.positions(jnp.arange(length))[None]
        x = self.embedding_norm(self.embedding(tokens) + places + self.segments(segments))
        for block in self.blocks:
            x = block(x, mask)
        return x

    def embed(
        self, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"] | None = None
    ) -> Float[Array, "batch width"]:
        """Embeddings of sentences: the mean over real tokens, scaled to length 1.

        Args:
          tokens: of each sentence, with those that the tokenizer puts around it.
          mask: True where a token is none of padding; None: everywhere.
        """
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        x, real = self(tokens, mask), mask[..., None]
        mean = (x * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    def pool(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch width"]:
        """``tanh`` of the pooler on the first token of what a call returned.

        Raises:
          ValueError: a model without a pooler.
        """
        if self.pooler is None:
            raise ValueError("this encoder has no pooler; embed() needs none.")
        return jnp.tanh(self.pooler(x[:, 0]))


class Block(nnx.Module):
    """``norm(x + attention(x))``, then ``norm(x + down(gelu(up(x))))``."""

    def __init__(self, width: int, heads: int, hidden: int, epsilon: float, *, rngs: nnx.Rngs):
        self.attention = Attention(width, heads, rngs=rngs)
        self.attention_norm = _norm(width, epsilon, rngs)
        self.feed_forward = FeedForward(width, hidden, rngs=rngs)
        self.feed_forward_norm = _norm(width, epsilon, rngs)

    def __call__(
        self, x: Float[Array, "batch length width"], mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        x = self.attention_norm(x + self.attention(x, mask))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Attention(nnx.Module):
    """Attention of every token to all real ones."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.size = width // heads
        inward = ("embed", "heads")
        self.query = _linear(width, width, inward, rngs)
        self.key = _linear(width, width, inward, rngs)
        self.value = _linear(width, width, inward, rngs)
        self.output = _linear(width, width, ("heads", "embed"), rngs)

    def __call__(
        self, x: Float[Array, "batch length width"], mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        def heads(y: Array) -> Array:
            return y.reshape(*y.shape[:2], -1, self.size)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        seen = mask[:, None, None, :]
        mixed = jax.nn.dot_product_attention(query, key, value, mask=seen)
        return self.output(mixed.reshape(x.shape))


class FeedForward(nnx.Module):
    """``down(gelu(up(x)))``, with the exact GELU."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.up = _linear(width, hidden, ("embed", "mlp"), rngs)
        self.down = _linear(hidden, width, ("mlp", "embed"), rngs)

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.down(nnx.gelu(self.up(x), approximate=False))


def _table(rows: int, width: int, name: str | None, rngs: nnx.Rngs) -> nnx.Embed:
    names = axis_names(name, "embed")
    return nnx.Embed(rows, width, embedding_init=_INITIAL, embedding_metadata=names, rngs=rngs)


def _linear(
    inputs: int, outputs: int, names: tuple[str | None, str | None], rngs: nnx.Rngs
) -> nnx.Linear:
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=_INITIAL,
        kernel_metadata=axis_names(*names),
        bias_metadata=axis_names(names[1]),
        rngs=rngs,
    )


def _norm(width: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits that so small an epsilon lets through.
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
