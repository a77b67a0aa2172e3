"""A decoder that reads a prompt at once and then token by token, with a cache of fixed size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dst.activations.cache import layer as one
from dst.activations.cache.eviction import Policy
from dst.activations.cache.sizes import Sizes, check, check_prompt
from dst.core import checks
from dst.core.typing import Array, Float, Int, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """The entries of all layers, a pytree.

    Attributes:
      layers: a list of :class:`Layer`, or, of a decoder with ``scan``, one with a leading axis of
        layers.
      time: int32, tokens that were read so far.
      policy: by which entries are evicted.
      length: tokens that may be read in all.
    """

    layers: Any
    time: Array
    policy: Policy = field(metadata={"static": True})
    length: int = field(metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.layers))


def start(model: nnx.Module, policy: Policy, batch: int, length: int) -> Cache:
    """A cache without entries, for ``batch`` texts of at most ``length`` tokens.

    Raises:
      ValueError: another model than a decoder, a budget or a length that does not fit into it.
      TypeError: a policy without a rule.
    """
    checks.integer("batch", batch, at_least=1)
    checks.integer("length", length, at_least=1)
    return _empty(model, policy, batch, length, check(model, policy, length))


def _empty(model: Any, policy: Policy, batch: int, length: int, sizes: Sizes) -> Cache:
    rule = policy.rule()
    shape = (batch, sizes.kv_heads, rule.slots(length), sizes.rotary.size)
    layers: Any = [one.empty(rule, i, shape, sizes.dtype) for i in range(sizes.layers)]
    if model.scan:
        layers = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    return Cache(layers, jnp.int32(0), policy, length)


def prefill(
    model: nnx.Module, tokens: Int[Array, "batch prompt"], policy: Policy, length: int
) -> tuple[Float[Array, "batch classes"], Cache]:
    """Reads a prompt at once, then evicts: logits of the token after it, and the cache.

    Within the prompt nothing is evicted, as in the code of H2O, SnapKV and TOVA; so memory grows
    with the square of its length. A prompt of another length compiles another program.

    Args:
      model: a :class:`dst.models.Decoder`.
      tokens: int ``[batch, prompt]``.
      policy: by which entries are evicted.
      length: tokens that will be read in all, with those of the prompt.

    Raises:
      ValueError: another model than a decoder, a budget or a length that does not fit into it; a
        prompt that is longer than ``length`` or the context, or too short for the policy.
      TypeError: a policy without a rule.

    Example:
      >>> from dst.models import Decoder
      >>> from dst.activations.cache import H2O
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> logits, cache = prefill(model, jnp.arange(5)[None], H2O(4), length=8)
      >>> logits, cache = decode(model, logits.argmax(-1), cache)
      >>> int(cache.time), int((cache.layers[0].position >= 0).sum(-1).max())
      (6, 4)

    Checked against: the model without a cache, tests/activations/cache/test_generate.py.
    """
    sizes = check(model, policy, length)
    check_prompt(policy, tokens.shape[1], min(length, sizes.context))
    cache = _empty(model, policy, tokens.shape[0], length, sizes)
    return read_prompt(*nnx.split(model), jnp.asarray(tokens), cache)


def decode(
    model: nnx.Module, tokens: Int[Array, " batch"], cache: Cache
) -> tuple[Float[Array, "batch classes"], Cache]:
    """Reads one token per text, then evicts: logits of the next token, and the new cache.

    The program is the same for every token. The old cache is donated to it and must not be used
    again.

    Args:
      model: of the cache.
      tokens: int ``[batch]``.
      cache: from :func:`prefill`, :func:`start` or this function.

    Raises:
      ValueError: a full cache: as many tokens as ``cache.length`` have been read.
    """
    if int(cache.time) >= cache.length:
        raise ValueError(
            f"the cache is for {cache.length} tokens, which have been read. Give prefill a larger "
            "length."
        )
    return read_token(*nnx.split(model), jnp.asarray(tokens), cache)


@partial(jax.jit, static_argnames="graph")
def read_prompt(graph: Any, state: PyTree, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    """:func:`prefill` of a model that was split by ``nnx.split``, without checks."""
    model = nnx.merge(graph, state)
    x, layers = model.hidden(tokens, partial(one.prompt, cache.policy.rule()), cache.layers)
    time = jnp.int32(tokens.shape[1])
    return model.logits(x[:, -1:])[:, 0], replace(cache, layers=layers, time=time)


@partial(jax.jit, static_argnames="graph", donate_argnames="cache")
def read_token(graph: Any, state: PyTree, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    """:func:`decode` of a model that was split by ``nnx.split``, without checks."""
    model = nnx.merge(graph, state)
    attend = partial(one.step, cache.policy.rule(), cache.time)
    x, layers = model.hidden(tokens[:, None], attend, cache.layers)
    return model.logits(x)[:, 0], replace(cache, layers=layers, time=cache.time + 1)
