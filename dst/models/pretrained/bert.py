"""The BERT family: encoders with a norm after each addition, which ``Encoder`` computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import nnx

from dst.io.checkpoints import Tensor
from dst.models.encoder import Encoder
from dst.models.pretrained.entries import Entries
from dst.models.pretrained.family import Family

_LAYERS = {  # module of a layer: module of ours
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/output",
    "intermediate.dense": "feed_forward/up",
    "output.dense": "feed_forward/down",
}
_NORMS = {
    "embeddings.LayerNorm": "embedding_norm",
    "encoder.layer.{layer}.attention.output.LayerNorm": "blocks/{layer}/attention_norm",
    "encoder.layer.{layer}.output.LayerNorm": "blocks/{layer}/feed_forward_norm",
}
_LINEAR = {
    **{f"encoder.layer.{{layer}}.{a}": f"blocks/{{layer}}/{b}" for a, b in _LAYERS.items()},
    "pooler.dense": "pooler",
}
_NAMES = {
    "embeddings.word_embeddings.weight": "embedding/embedding",
    "embeddings.position_embeddings.weight": "positions/embedding",
    "embeddings.token_type_embeddings.weight": "segments/embedding",
    **{f"{a}.weight": f"{b}/scale" for a, b in _NORMS.items()},
    **{f"{a}.weight": f"{b}/kernel" for a, b in _LINEAR.items()},
    **{f"{a}.bias": f"{b}/bias" for a, b in (_NORMS | _LINEAR).items()},
}


def _build(entries: Entries, tensors: Mapping[str, Tensor], scan: bool) -> nnx.Module:
    entries.demand("hidden_act", "gelu")
    entries.demand("position_embedding_type", "absolute")
    entries.demand("is_decoder", False)
    if scan:
        raise ValueError(f"{entries.source}: scan is for decoders, this is an encoder.")
    return Encoder(
        entries.integer("max_position_embeddings"),
        entries.integer("vocab_size"),
        width=entries.integer("hidden_size"),
        layers=entries.layers("num_hidden_layers"),
        heads=entries.integer("num_attention_heads"),
        hidden=entries.integer("intermediate_size"),
        segments=entries.integer("type_vocab_size", 2),
        pooler="pooler.dense.weight" in tensors,
        epsilon=entries.number("layer_norm_eps", 1e-12),
        rngs=nnx.Rngs(0),
    )


def _describe(model: Encoder) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": model.embedding.num_embeddings,
        "hidden_size": model.embedding.features,
        "intermediate_size": model.blocks[0].feed_forward.up.out_features,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.heads,
        "max_position_embeddings": model.context,
        "type_vocab_size": model.segments.num_embeddings,
        "layer_norm_eps": model.epsilon,
        "hidden_act": "gelu",
    }


BERT = Family(
    name="bert",
    types=("bert",),
    network=Encoder,
    names=_NAMES,
    build=_build,
    describe=_describe,
    left_out=("cls.*", "embeddings.position_ids"),  # heads of pretraining; a table of 0, 1, 2, ...
    prefixes=("bert.",),
)
