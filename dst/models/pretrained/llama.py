"""The LLaMA family: decoders with rotary attention and SwiGLU, which ``Decoder`` computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from dst.core import checks
from dst.io.checkpoints import Tensor
from dst.models.biases import add_biases
from dst.models.decoder import ACTIVATIONS, Decoder
from dst.models.pretrained.entries import Entries
from dst.models.pretrained.family import Family

_HEAD = "lm_head.weight"
_BLOCK = "model.layers.{layer}"
_NAMES = {
    "model.embed_tokens.weight": "embedding/embedding",
    f"{_BLOCK}.input_layernorm.weight": "blocks/{layer}/attention_norm/scale",
    f"{_BLOCK}.self_attn.q_proj.weight": "blocks/{layer}/attention/query/kernel",
    f"{_BLOCK}.self_attn.q_proj.bias": "blocks/{layer}/attention/query/bias",
    f"{_BLOCK}.self_attn.k_proj.weight": "blocks/{layer}/attention/key/kernel",
    f"{_BLOCK}.self_attn.k_proj.bias": "blocks/{layer}/attention/key/bias",
    f"{_BLOCK}.self_attn.v_proj.weight": "blocks/{layer}/attention/value/kernel",
    f"{_BLOCK}.self_attn.v_proj.bias": "blocks/{layer}/attention/value/bias",
    f"{_BLOCK}.self_attn.o_proj.weight": "blocks/{layer}/attention/output/kernel",
    f"{_BLOCK}.self_attn.o_proj.bias": "blocks/{layer}/attention/output/bias",
    f"{_BLOCK}.post_attention_layernorm.weight": "blocks/{layer}/feed_forward_norm/scale",
    f"{_BLOCK}.mlp.gate_proj.weight": "blocks/{layer}/feed_forward/gate/kernel",
    f"{_BLOCK}.mlp.gate_proj.bias": "blocks/{layer}/feed_forward/gate/bias",
    f"{_BLOCK}.mlp.up_proj.weight": "blocks/{layer}/feed_forward/up/kernel",
    f"{_BLOCK}.mlp.up_proj.bias": "blocks/{layer}/feed_forward/up/bias",
    f"{_BLOCK}.mlp.down_proj.weight": "blocks/{layer}/feed_forward/down/kernel",
    f"{_BLOCK}.mlp.down_proj.bias": "blocks/{layer}/feed_forward/down/bias",
    "model.norm.weight": "final_norm/scale",
    _HEAD: "unembedding/kernel",
}


def _build(entries: Entries, tensors: Mapping[str, Tensor], scan: bool) -> nnx.Module:
    entries.demand("hidden_act", *ACTIVATIONS)
    context = entries.integer("max_position_embeddings")
    window = entries.entries.get("sliding_window")
    if window is not None and window < context and entries.flag("use_sliding_window", True):
        raise ValueError(
            f"{entries.source}: attention here sees all {context} tokens before, sliding_window "
            f"lets it see {window}. Lower max_position_embeddings to {window}."
        )
    width, heads = entries.integer("hidden_size"), entries.integer("num_attention_heads")
    size = entries.integer("head_dim", width // heads)
    rope = _rope(entries)
    base = rope.number("rope_theta", 10_000.0)
    model = Decoder(
        (context,),
        entries.integer("vocab_size"),
        width=width,
        layers=entries.layers("num_hidden_layers"),
        heads=heads,
        kv_heads=entries.integer("num_key_value_heads", heads),
        hidden=entries.integer("intermediate_size"),
        head_size=size,
        bias=entries.get("model_type") == "qwen2",
        tied=entries.flag("tie_word_embeddings", False),
        rotary_base=base,
        rotary_factors=_factors(rope, size, base),
        epsilon=entries.number("rms_norm_eps", 1e-6),
        activation=entries.get("hidden_act", "silu"),
        scan=scan,
        rngs=nnx.Rngs(0),
    )
    add_biases(
        model,
        attention=entries.flag("attention_bias", False),
        feed_forward=entries.flag("mlp_bias", False),
    )
    return model


def _rope(entries: Entries) -> Entries:
    """Entries about the rotation: of ``rope_parameters``, or of the older ``rope_scaling``."""
    nested = entries.entries.get("rope_parameters") or entries.entries.get("rope_scaling") or {}
    theta = {"rope_theta": entries.entries.get("rope_theta")}
    return Entries(f"{entries.source}: rotation", {**theta, **nested})


def _factors(rope: Entries, size: int, base: float) -> tuple[float, ...] | None:
    """By what each pair of channels turns more slowly.

    Of ``llama3``, pairs that turn less than ``low_freq_factor`` times in the original context are
    slowed by ``factor``, those that turn more than ``high_freq_factor`` times are not, and between
    them the speed is interpolated.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    checks.one_of(f"{rope.source}: rope_type", kind, ("default", "linear", "llama3"))
    if kind == "default":
        return None
    factor, half = rope.number("factor"), size // 2
    if kind == "linear":
        return (factor,) * half
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    speed = base ** (-np.arange(half) / half)
    turns = rope.integer("original_max_position_embeddings") * speed / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return tuple((1 / (share + (1 - share) / factor)).tolist())


def _describe(model: Decoder) -> dict[str, Any]:
    block = model.blocks if model.scan else model.blocks[0]
    attention, rotary = block.attention, block.attention.rotary
    if rotary.factors is not None and model.config is None:
        raise ValueError(
            "config.json has no entry for rotary_factors of one's own: only models that were "
            "loaded with them can be saved."
        )
    everywhere = attention.output.bias is not None
    bias = attention.query.bias is not None and not everywhere
    return {
        "model_type": "qwen2" if bias else "llama",
        "architectures": ["Qwen2ForCausalLM" if bias else "LlamaForCausalLM"],
        "vocab_size": model.embedding.num_embeddings,
        "hidden_size": model.embedding.features,
        "intermediate_size": block.feed_forward.up.out_features,
        "num_hidden_layers": model.layers,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": rotary.size,
        "max_position_embeddings": model.context,
        "rope_theta": rotary.base,
        "rms_norm_eps": model.epsilon,
        "hidden_act": _activation(block.feed_forward.activation),
        "tie_word_embeddings": model.unembedding is None,
        "attention_bias": everywhere,
        "mlp_bias": block.feed_forward.down.bias is not None,
    }


def _activation(function: Any) -> str:
    names = [name for name, known in ACTIVATIONS.items() if known is function]
    if not names:
        found = getattr(function, "__name__", type(function).__name__)
        raise ValueError(
            f"hidden_act of config.json must be one of {list(ACTIVATIONS)}, the model has {found}. "
            "Thresholds cannot be saved: dst.activations.remove(model) takes them away."
        )
    return names[0]


LLAMA = Family(
    name="llama",
    types=("llama", "mistral", "qwen2"),
    network=Decoder,
    names=_NAMES,
    build=_build,
    describe=_describe,
    left_out=("*.rotary_emb.inv_freq",),
)
