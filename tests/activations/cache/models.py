"""What tests of caches share: small decoders, and a policy of every kind."""

from __future__ import annotations

import numpy as np
from flax import nnx

from dst import models
from dst.activations.cache import (
    H2O,
    TOVA,
    CaM,
    DoubleSparsity,
    Full,
    Local,
    SnapKV,
    StreamingLLM,
    Strided,
)

WORDS, CONTEXT, LAYERS, HEADS = 23, 24, 2, 4
TEXTS = np.random.default_rng(0).integers(0, WORDS, (3, 16)).astype(np.int32)
BUDGET = 6
CHANNELS = tuple(tuple(((h + n) % 3, 3) for h in range(HEADS)) for n in range(LAYERS))
# One of every kind, by name; each has a budget of six entries, which its texts exceed.
POLICIES = {
    "local": Local(BUDGET),
    "strided": Strided(BUDGET, stride=3, recent=2),
    "streaming_llm": StreamingLLM(BUDGET, sinks=2),
    "h2o": H2O(BUDGET),
    "tova": TOVA(BUDGET),
    "snapkv": SnapKV(BUDGET, window=2, kernel=3),
    "cam": CaM(BUDGET, sinks=2, merged=3),
}
READERS = {
    "full": Full(),
    "double_sparsity": DoubleSparsity(BUDGET, CHANNELS, dense_layers=1),
}


def decoder(seed=0, **changes):
    """Its logits differ enough that rounding changes no greedy token."""
    sizes = {"width": 16, "layers": LAYERS, "heads": HEADS, "kv_heads": 2, "hidden": 24, **changes}
    model = models.Decoder((CONTEXT,), WORDS, **sizes, rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = variable.get_value()
        if "kernel" in path:
            variable.set_value((random.normal(size=value.shape) * 0.7).astype(np.float32))
        elif "embedding" in path:
            variable.set_value(value * 3.2)
    return model
