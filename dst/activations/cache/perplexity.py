"""Perplexity of a text that a decoder reads through a cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from dst.activations.cache.eviction import Policy
from dst.activations.cache.full import Full
from dst.activations.cache.model import Cache, read_prompt, read_token, start
from dst.activations.cache.sizes import check, check_prompt, check_tokens
from dst.core import checks
from dst.core.typing import Array, Int, PyTree


def perplexity(
    model: nnx.Module,
    windows: Int[np.ndarray, "count length"],
    policy: Policy = Full(),  # noqa: B008 - frozen
    *,
    prompt: int = 0,
    batch: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> float:
    """Perplexity of the tokens of windows, each predicted from what the cache has at that point.

    ``exp(mean over windows of mean over t = prompt + 1, ..., length - 1 of -log p(token_t))``.
    Token ``t`` is predicted after token ``t - 1`` was read by itself, so from entries that are
    within the budget. With :class:`Full` and no prompt it is that of :func:`dst.eval.language`.

    Args:
      model: a :class:`dst.models.Decoder`.
      windows: int ``[count, length]``, of :func:`dst.eval.consecutive`.
      policy: by which entries of the cache are evicted.
      prompt: how many tokens are read at once, with full attention, and not predicted.
      batch: windows at a time.
      progress: called as ``progress(done, count)`` after every batch.

    Raises:
      ValueError: another model than a decoder; windows longer than the context, unless positions
        are those inside the cache; nothing to predict; a prompt that is too short for the policy;
        tokens outside of the vocabulary.
      TypeError: a policy without a rule.

    Example:
      >>> from dst.activations.cache import Local
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> perplexity(model, np.arange(16).reshape(2, 8), Local(4)) > 1
      True

    References: the protocol of Xiao et al. 2023 (arXiv 2309.17453), token by token.
    Checked against: :func:`dst.eval.language`, and attention that was masked in NumPy:
      tests/activations/cache/test_perplexity.py.
    """
    count, length = windows.shape
    checks.integer("the number of windows", count, at_least=1)
    checks.integer("batch", batch, at_least=1)
    checks.integer("prompt", prompt, at_least=0)
    checks.integer("the length of windows", length, at_least=prompt + 2)
    sizes = check(model, policy, length)
    if prompt or policy.rule().shortest:
        check_prompt(policy, prompt, sizes.context)
    check_tokens(windows, sizes.classes)
    batch = min(batch, count)
    graph, state = nnx.split(model)
    losses = []
    for first in range(0, count, batch):
        part = windows[first : first + batch]
        full = jnp.asarray(np.resize(part, (batch, length)), jnp.int32)  # one shape, one program
        cache = start(model, policy, batch, length)
        if prompt:
            _, cache = read_prompt(graph, state, full[:, :prompt], cache)
        found = _losses(graph, state, full[:, prompt:], cache)
        losses.append(np.asarray(found, np.float64)[: len(part)])
        if progress is not None:
            progress(first + len(part), count)
    return float(np.exp(np.concatenate(losses).mean()))


@partial(jax.jit, static_argnames="graph")
def _losses(graph: Any, state: PyTree, tokens: Array, cache: Cache) -> Array:
    """Float32 ``[batch]``: mean cross-entropy of all tokens but the first."""

    def read(cache: Cache, pair: tuple[Array, Array]) -> tuple[Cache, Array]:
        token, following = pair
        logits, cache = read_token(graph, state, token, cache)
        logs = jax.nn.log_softmax(logits.astype(jnp.float32))
        return cache, -jnp.take_along_axis(logs, following[:, None], axis=1)[:, 0]

    _, losses = lax.scan(read, cache, (tokens[:, :-1].T, tokens[:, 1:].T))
    return losses.mean(axis=0)
