"""How well a language model predicts text: alone, and beside the dense model that it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from dst.core import checks
from dst.core.typing import Array, Int, PyTree
from dst.models import Encoder

_BYTES = 100_000_000  # of the float32 logits of one model that are alive together


@dataclass(frozen=True)
class Quality:
    """How well a model predicts text.

    Attributes:
      perplexity: ``exp`` of the mean cross-entropy of the tokens.
      tokens: that were predicted: all of every window but its first.
      bits_per_byte: cross-entropy in bits per byte of their text, which models with different
        tokenizers share; None without a tokenizer.
      agreement: share of the tokens for which the most likely token is that of the dense model;
        None without one.
      kl: mean of ``KL(dense || model)`` over the tokens, in nats; None without a dense model.
      against: the same of the dense model.
    """

    perplexity: float
    tokens: int
    bits_per_byte: float | None = None
    agreement: float | None = None
    kl: float | None = None
    against: Quality | None = None


def language(
    model: nnx.Module,
    windows: Int[np.ndarray, "count length"],
    *,
    tokenizer: Any = None,
    against: nnx.Module | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Quality:
    """Judges a language model by the tokens of windows, each from those before it in its window.

    ``perplexity = exp(mean over windows of mean over t = 1, ..., length - 1 of -log p(token_t))``.
    Logits and their softmax are float32, sums over windows float64.

    Args:
      model: ``model(tokens [batch, length]) -> logits [batch, length, vocabulary]``, where position
        ``t`` gives the logits of token ``t + 1``.
      windows: int ``[count, length]``, of :func:`consecutive`.
      tokenizer: of :func:`dst.models.tokenizer`, by which bytes are counted.
      against: a dense model of the same vocabulary.
      batch: windows at a time; None: as many as have 100 MB of logits, but at least one.
      progress: called as ``progress(done, count)`` after every batch.

    Raises:
      ValueError: an encoder; windows longer than the context; tokens that the vocabulary does not
        have; models of different vocabularies.

    Example:
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> windows = np.arange(16).reshape(2, 8)
      >>> quality = language(model, windows, against=model)
      >>> quality.tokens, quality.agreement, round(quality.kl, 6)
      (14, 1.0, 0.0)

    References: the protocol of Frantar and Alistarh 2023 (arXiv 2301.00774), section 4.
    Checked against: a computation in NumPy, tests/eval/test_language.py.
    """
    models = [model] if against is None else [model, against]
    vocabulary = check(windows, *models)
    count, length = windows.shape
    if batch is None:
        batch = max(_BYTES // (4 * length * vocabulary), 1)
    checks.integer("batch", batch, at_least=1)
    batch = min(batch, count)
    graphs, states = zip(*map(nnx.split, models), strict=True)
    found = []
    for start in range(0, count, batch):
        part = windows[start : start + batch]
        full = np.resize(part, (batch, length))  # the last one, too: one shape, one program
        means = _means(graphs, states, jnp.asarray(full))
        found.append([np.asarray(x, np.float64)[: len(part)] for x in means])
        if progress is not None:
            progress(start + len(part), count)
    loss, *others = (float(np.concatenate(x).mean()) for x in zip(*found, strict=True))
    scored = count * (length - 1)
    size = None if tokenizer is None else _bytes(tokenizer, windows)

    def quality(loss: float, **beside: Any) -> Quality:
        bits = None if size is None else loss * scored / math.log(2) / size
        with np.errstate(over="ignore"):  # a model of noise
            return Quality(float(np.exp(loss)), scored, bits, **beside)

    if not others:
        return quality(loss)
    dense, agreement, kl = others
    return quality(loss, agreement=agreement, kl=kl, against=quality(dense))


def check(windows: Int[np.ndarray, "count length"], *models: nnx.Module) -> int:
    """Raises unless each model predicts the tokens of windows; nothing is computed.

    Returns:
      the size of their vocabulary.

    Raises:
      ValueError: an encoder; windows longer than the context, or without anything to predict;
        tokens that the vocabulary does not have; models of different vocabularies.
    """
    count, length = windows.shape
    checks.integer("the number of windows", count, at_least=1)
    checks.integer("the length of windows", length, at_least=2)
    sizes = []
    for model in models:
        if isinstance(model, Encoder):
            raise ValueError(
                "the model must predict the next token, as dst.models.Decoder does, got an "
                "encoder: it has no perplexity."
            )
        context = getattr(model, "context", length)
        if length > context:
            raise ValueError(
                f"windows must be at most {context} tokens long, the context of the model, got "
                f"{length}."
            )
        tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
        sizes.append(logits_of.eval_shape(*nnx.split(model), tokens).shape[-1])
    if len(set(sizes)) > 1:
        raise ValueError(f"both models must have the same vocabulary, got {sizes} tokens.")
    if not 0 <= windows.min() <= windows.max() < sizes[0]:
        raise ValueError(
            f"tokens must be below {sizes[0]}, the size of the vocabulary, found {windows.max()}. "
            "Is the tokenizer that of the model?"
        )
    return sizes[0]


@partial(jax.jit, static_argnames="graph")
def logits_of(graph: Any, state: PyTree, tokens: Int[Array, "batch length"]) -> Array:
    """Logits ``[batch, length, vocabulary]`` of a model that was split by ``nnx.split``.

    Compiled by itself, also within other programs: many blocks are traced once for each shape.
    """
    return nnx.merge(graph, state)(tokens)


@partial(jax.jit, static_argnames="graphs")
def _means(
    graphs: tuple[Any, ...], states: tuple[PyTree, ...], tokens: Int[Array, "batch length"]
) -> tuple[Array, ...]:
    """Float32 ``[batch]``: cross-entropy of every model; of two also agreement and KL."""
    logs = []
    for graph, state in zip(graphs, states, strict=True):
        logits = logits_of(graph, state, tokens)[:, :-1]
        logs.append(jax.nn.log_softmax(logits.astype(jnp.float32)))
    losses = [-jnp.take_along_axis(x, tokens[:, 1:, None], axis=-1).mean(axis=(1, 2)) for x in logs]
    if len(logs) == 1:
        return tuple(losses)
    model, dense = logs
    same = (model.argmax(axis=-1) == dense.argmax(axis=-1)).mean(axis=1)
    kl = (jnp.exp(dense) * (dense - model)).sum(axis=-1).mean(axis=1)
    return *losses, same, kl


def _bytes(tokenizer: Any, windows: np.ndarray) -> int:
    """The bytes of the tokens that are predicted."""
    texts = tokenizer.decode_batch(windows[:, 1:].tolist(), skip_special_tokens=False)
    return sum(len(x.encode()) for x in texts)


def generate(model: nnx.Module, tokens: np.ndarray, count: int) -> np.ndarray:
    """The most likely continuation of a text, one token after the other.

    Every token is a whole forward pass: there is no cache.

    Args:
      model: as for :func:`language`.
      tokens: int ``[length]``, at least one.
      count: how many tokens follow, int32 ``[count]``; text and continuation fit into the context.

    Raises:
      ValueError: as :func:`language`.

    Example:
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> generate(model, np.array([1, 2]), 3).shape
      (3,)

    Checked against: the logits of whole sequences, tests/eval/test_language.py.
    """
    padded = np.pad(np.asarray(tokens, np.int32), (0, count))[None]
    check(padded, model)
    found = _continued(*nnx.split(model), jnp.asarray(padded), len(tokens))
    return np.asarray(found)[0, len(tokens) :]


@partial(jax.jit, static_argnames="graph")
def _continued(
    graph: Any, state: PyTree, tokens: Int[Array, "1 length"], start: Int[Array, ""]
) -> Int[Array, "1 length"]:
    def following(place: Array, tokens: Array) -> Array:
        logits = logits_of(graph, state, tokens)  # later places change nothing before them
        best = logits[0, place - 1].astype(jnp.float32).argmax()
        return tokens.at[0, place].set(best.astype(tokens.dtype))

    return lax.fori_loop(start, tokens.shape[1], following, tokens)
