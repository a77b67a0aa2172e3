"""Small untrained models whose tokens are bytes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds

from dst import models

WORDS = {x: i for i, x in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def letters(merges=()):
    """A tokenizer of single bytes, and of the pairs that are merged."""
    vocabulary = {**WORDS, **{a + b: len(WORDS) + i for i, (a, b) in enumerate(merges)}}
    made = Tokenizer(kinds.BPE(vocab=vocabulary, merges=list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def decoder(seed=0, context=256, words=256):
    sizes = {"width": 16, "layers": 1, "heads": 2, "hidden": 24}
    model = models.Decoder((context,), words, **sizes, rngs=nnx.Rngs(seed))
    table = model.embedding.embedding
    table.set_value(table.get_value() * 20)  # logits that differ
    return model


def encoder(seed=0, context=512):
    sizes = {"width": 16, "layers": 1, "heads": 2, "hidden": 24}
    model = models.Encoder(context, len(WORDS), **sizes, rngs=nnx.Rngs(seed))
    state, random = nnx.state(model, nnx.Param), np.random.default_rng(seed)
    nnx.update(model, jax.tree.map(lambda x: jnp.float32(random.normal(size=x.shape) / 3), state))
    return model


@partial(jax.jit, static_argnums=0)
def _logits(graph, state, tokens):
    return nnx.merge(graph, state)(tokens)


def uniform(model):
    """The same model, which finds all tokens equally likely."""
    model.final_norm.scale.set_value(jnp.zeros_like(model.final_norm.scale.get_value()))
    return model


def log_probability(model, before, following):
    """Of a continuation, and whether it is greedy: from the logits of the whole text, in NumPy."""
    whole = [*before, *following]
    # Padded, so that one program does for all; later tokens change nothing before them.
    padded = np.resize(np.array(whole[:-1]), model.context)
    logits = np.float64(_logits(*nnx.split(model), jnp.asarray(padded)[None])[0])
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = range(len(before) - 1, len(whole) - 1)
    greedy = all(logits[t].argmax() == whole[t + 1] for t in places)
    return sum(logs[t, whole[t + 1]] for t in places), greedy
