"""The embeddings of an encoder, and how much they move when it is pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core import checks
from dst.core.typing import Array, Bool, Float, Int, PyTree
from dst.models.encoder import Encoder

_ROWS = 2048  # tokens at a time
_STEP = 32  # lengths of sentences are padded to a multiple: few programs


def cosine(model: Encoder, against: Encoder, windows: Int[np.ndarray, "count length"]) -> float:
    """The mean cosine between the embeddings of two encoders, over texts; in [-1, 1].

    Args:
      model: an encoder.
      against: the dense one that it came from.
      windows: int ``[count, length]``, of :func:`consecutive`.

    Raises:
      ValueError: windows longer than the context; encoders of different widths.

    Example:
      >>> from dst.models import Encoder
      >>> sizes = dict(width=8, layers=1, heads=2, hidden=8)
      >>> model = Encoder(8, 100, **sizes, rngs=nnx.Rngs(0))
      >>> round(cosine(model, model, np.arange(16).reshape(2, 8)), 5)
      1.0

    Checked against: NumPy, tests/eval/test_embeddings.py.
    """
    graphs, states = zip(*map(nnx.split, (model, against)), strict=True)
    rows = max(_ROWS // windows.shape[1], 1)
    found = []
    for start in range(0, len(windows), rows):
        tokens = jnp.asarray(windows[start : start + rows])
        one, other = map(partial(_embeddings, tokens=tokens), graphs, states)
        if one.shape != other.shape:
            raise ValueError(
                f"both encoders must have one width, got {one.shape[1]} and {other.shape[1]}."
            )
        found.append(np.asarray(jnp.sum(one * other, axis=-1), np.float64))
    return float(np.concatenate(found).mean())


def embed(
    model: Encoder,
    sentences: Sequence[Sequence[int]],
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Float[np.ndarray, "count width"]:
    """The embeddings of sentences of any lengths, float32, each of length 1.

    Args:
      model: an encoder.
      sentences: tokens of each, at least one and no more than the context.
      progress: called as ``progress(done, count)`` after every batch.

    Raises:
      ValueError: no sentence, or one without tokens or longer than the context.

    Example:
      >>> sizes = dict(width=8, layers=1, heads=2, hidden=8)
      >>> model = Encoder(8, 100, **sizes, rngs=nnx.Rngs(0))
      >>> embed(model, [[1, 2, 3], [4]]).shape
      (2, 8)

    Checked against: one sentence at a time without padding, tests/eval/test_embeddings.py.
    """
    checks.integer("the number of sentences", len(sentences), at_least=1)
    for number, sentence in enumerate(sentences):
        if not 1 <= len(sentence) <= model.context:
            raise ValueError(
                f"sentence {number} must have at least one token and at most {model.context}, the "
                f"context of the model, got {len(sentence)}."
            )
    graph, state = nnx.split(model)
    order = sorted(range(len(sentences)), key=lambda i: -len(sentences[i]))
    found = np.zeros((len(sentences), model.embedding.embedding.shape[1]), np.float32)
    start = 0
    while start < len(order):
        longest = len(sentences[order[start]])
        length = min(-(-longest // _STEP) * _STEP, model.context)
        rows = max(_ROWS // length, 1)
        part = order[start : start + rows]
        tokens, mask = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
        for row, number in enumerate(part):
            count = len(sentences[number])
            tokens[row, :count], mask[row, :count] = sentences[number], True
        made = _embeddings(graph, state, jnp.asarray(tokens), jnp.asarray(mask))
        found[part] = np.asarray(made)[: len(part)]
        start += len(part)
        if progress is not None:
            progress(start, len(order))
    return found


# Outside of `cosine`, so that it is compiled once for all encoders of one architecture.
@partial(jax.jit, static_argnums=0)
def _embeddings(
    graph: Any,
    state: PyTree,
    tokens: Int[Array, "count length"],
    mask: Bool[Array, "count length"] | None = None,
) -> Array:
    return nnx.merge(graph, state).embed(tokens, mask)
