"""What a cache must know of a decoder, and whether policy and text fit to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.activations.cache.eviction import Policy
from dst.core.text import shown


class Sizes(NamedTuple):
    """What a cache must know of a decoder."""

    context: int
    layers: int
    heads: int
    kv_heads: int
    rotary: Any
    dtype: Any
    classes: int


def check(model: Any, policy: Any = None, length: int = 1) -> Sizes:
    """Raises unless a decoder can read so many tokens under a policy; nothing is computed.

    Args:
      model: a :class:`dst.models.Decoder`.
      policy: of this package, or of your own; None: not looked at.
      length: tokens to read, which is not limited where positions are those inside the cache.

    Raises:
      ValueError: another model; a budget or a text longer than its context; channels of another
        model.
      TypeError: a policy without a rule.
    """
    if not isinstance(model, nnx.Module) or not hasattr(model, "hidden"):
        raise ValueError(
            "the model must be a dst.models.Decoder, whose attention reads a cache, got "
            f"{type(model).__name__}. dst.models.load reads pretrained ones."
        )
    decoder: Any = model
    block = decoder.blocks if decoder.scan else decoder.blocks[0]
    attention, table = block.attention, decoder.embedding
    weights = (table.embedding, block.attention_norm.scale, attention.key.kernel)
    sizes = Sizes(
        decoder.context,
        decoder.layers,
        attention.heads,
        attention.kv_heads,
        attention.rotary,
        jnp.result_type(*(x.get_value() for x in weights)),
        table.num_embeddings,
    )
    if policy is not None:
        _check_policy(policy, sizes, length)
    return sizes


def _check_policy(policy: Any, sizes: Sizes, length: int) -> None:
    if isinstance(policy, type) or not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be one of dst.activations.cache, such as H2O(64), got {shown(policy)}."
        )
    rule, context = policy.rule(), sizes.context
    for name, found in (
        ("budget", rule.budget),
        ("budget of reading", None if rule.reading is None else rule.reading.entries),
    ):
        if found is not None and found > context:
            raise ValueError(
                f"the {name} must be at most {context} entries, the context of the model, got "
                f"{found}. Full() keeps and reads all."
            )
    if rule.places is None and length > context:
        raise ValueError(
            f"prompt and continuation must be at most {context} tokens long, the context of the "
            f"model, got {length}. StreamingLLM and CaM go on beyond it."
        )
    if rule.places is not None and rule.budget is not None and rule.budget >= context:
        raise ValueError(
            f"the budget must be below {context} entries, the context of the model, where "
            f"positions are those inside the cache, got {rule.budget}: the newest token needs one."
        )
    if rule.reading is not None:
        channels = rule.reading.channels
        found_sizes = (len(channels), {len(x) for x in channels})
        largest = max(c for x in channels for head in x for c in head)
        if found_sizes != (sizes.layers, {sizes.heads}) or largest >= sizes.rotary.size:
            raise ValueError(
                f"channels must be those of {sizes.layers} layers with {sizes.heads} heads of "
                f"{sizes.rotary.size} channels, got {len(channels)} layers, {found_sizes[1]} "
                f"heads and channel {largest}. Calibrate with this model: label_channels."
            )


def check_prompt(policy: Policy, prompt: int, most: int) -> None:
    """Raises unless a prompt has as many tokens as the policy needs, and at most ``most``."""
    least = max(policy.rule().shortest, 1)
    if prompt > most:
        raise ValueError(
            f"the prompt must be at most {most} tokens long, the length of the cache or the "
            f"context of the model, got {prompt}."
        )
    if prompt < least:
        raise ValueError(
            f"{type(policy).__name__} needs a prompt of at least {least} tokens, got {prompt}. "
            "Read more tokens at once, or take a smaller window."
        )


def check_tokens(tokens: np.ndarray, classes: int) -> None:
    """Raises unless a vocabulary of ``classes`` tokens has them."""
    if not 0 <= tokens.min() <= tokens.max() < classes:
        raise ValueError(
            f"tokens must be below {classes}, the size of the vocabulary, found {tokens.max()}. "
            "Is the tokenizer that of the model?"
        )
