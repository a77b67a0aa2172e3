"""Text from a decoder with a cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.activations.cache.eviction import Policy
from dst.activations.cache.full import Full
from dst.activations.cache.model import read_prompt, read_token, start
from dst.activations.cache.sizes import check, check_prompt, check_tokens
from dst.core import checks
from dst.core.typing import Array


def generate(
    model: nnx.Module,
    tokens: np.ndarray,
    count: int,
    policy: Policy = Full(),  # noqa: B008 - frozen
    *,
    prompt: int | None = None,
    key: Array | None = None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Continues a text: the most likely token after the other, or drawn ones.

    Args:
      model: a :class:`dst.models.Decoder`.
      tokens: int ``[length]``, or ``[batch, length]`` for several texts.
      count: how many tokens follow.
      policy: by which entries of the cache are evicted.
      prompt: how many of the tokens are read at once, with full attention; the others are read one
        by one, as later ones are. None: all.
      key: of ``jax.random``, for tokens that are drawn from the softmax; None: the most likely.
      temperature: by which logits are divided before they are drawn from, > 0.

    Returns:
      int32 ``[count]`` or ``[batch, count]``.

    Raises:
      ValueError: another model than a decoder; text and continuation longer than the context,
        unless positions are those inside the cache; a prompt that is too long or too short; tokens
        outside of the vocabulary.
      TypeError: a policy without a rule.

    Example:
      >>> from dst.activations.cache import StreamingLLM
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> generate(model, np.array([1, 2]), 20, StreamingLLM(5, sinks=1)).shape
      (20,)

    Checked against: generation without a cache, tests/activations/cache/test_generate.py.
    """
    checks.integer("count", count, at_least=1)
    checks.above_zero("temperature", temperature)
    texts = np.atleast_2d(np.asarray(tokens, np.int32))
    batch, length = texts.shape
    at_once = length if prompt is None else prompt
    checks.integer("the length of the text", length, at_least=1)
    checks.integer("prompt", at_once, at_least=0, at_most=length)
    sizes = check(model, policy, length + count)
    if at_once or policy.rule().shortest:
        check_prompt(policy, at_once, sizes.context)
    check_tokens(texts, sizes.classes)
    graph, state = nnx.split(model)
    cache = start(model, policy, batch, length + count)
    logits = jnp.zeros((batch, sizes.classes))
    if at_once:
        logits, cache = read_prompt(graph, state, jnp.asarray(texts[:, :at_once]), cache)
    for i in range(at_once, length):
        logits, cache = read_token(graph, state, jnp.asarray(texts[:, i]), cache)
    found: list[Array] = []
    for i in range(count):
        if i:
            logits, cache = read_token(graph, state, found[-1], cache)
        if key is None:
            found.append(_best(logits))
        else:
            found.append(_drawn(logits, jax.random.fold_in(key, i), temperature))
    continued = np.stack(jax.device_get(found), axis=1)
    return continued if np.ndim(tokens) == 2 else continued[0]


@jax.jit
def _best(logits: Array) -> Array:
    return logits.astype(jnp.float32).argmax(axis=-1).astype(jnp.int32)


@jax.jit
def _drawn(logits: Array, key: Array, temperature: float) -> Array:
    return jax.random.categorical(key, logits.astype(jnp.float32) / temperature).astype(jnp.int32)
