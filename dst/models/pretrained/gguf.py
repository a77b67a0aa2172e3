"""GGUF files as if they were directories: entries of a configuration, and tensors by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import checks
from dst.io.checkpoints import Tensor
from dst.models.pretrained.entries import Entries

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_A_BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def read(path: Path) -> tuple[Entries, dict[str, Tensor]]:
    """Entries and tensors of a GGUF file, named as in a directory of the LLaMA family.

    llama.cpp turns neighbouring channels, so its files have the rows of queries and keys in that
    order; they are put back, so that halves of a head turn together.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that cannot be read, or another architecture.
    """
    from dst.io.gguf import open_gguf

    metadata, found = open_gguf(path)
    kind = metadata.get("general.architecture")
    checks.one_of(f"{path}: general.architecture", kind, ("llama",))
    if "rope_freqs.weight" in found or metadata.get("llama.rope.scaling.type", "none") != "none":
        raise ValueError(
            f"{path} has rotary factors, which have no entry in config.json. Load the directory "
            "that the file was made of."
        )
    entries = _entries(str(path), metadata, "output.weight" in found)
    heads = entries.integer("num_attention_heads")
    by_name = {
        "self_attn.q_proj.weight": heads,
        "self_attn.k_proj.weight": entries.integer("num_key_value_heads", heads),
    }
    tensors = {}
    for name, tensor in found.items():
        if block := re.fullmatch(r"blk\.(\d+)\.(.+)", name):
            ours = _OF_A_BLOCK.get(block[2], block[2])
            if count := by_name.get(ours):
                tensor = replace(tensor, read=_by_halves(tensor.read, count))
            name = f"model.layers.{block[1]}.{ours}"
        tensors[_NAMES.get(name, name)] = tensor
    return entries, tensors


def _by_halves(read: Callable[[], np.ndarray], heads: int) -> Callable[[], np.ndarray]:
    """Rows of each head in the order first, second half, from the order of pairs."""

    def turned() -> np.ndarray:
        rows = read()
        pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    return turned


def _entries(path: str, metadata: Mapping[str, Any], untied: bool) -> Entries:
    own = Entries(path, {k: metadata[k] for k in metadata if not k.startswith("tokenizer.ggml.t")})
    width = own.integer("llama.embedding_length")
    heads = own.integer("llama.attention.head_count")
    size = own.integer("llama.attention.key_length", width // heads)
    own.demand("llama.rope.dimension_count", size)
    entries = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": own.integer("llama.feed_forward_length"),
        "num_hidden_layers": own.integer("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": own.integer("llama.attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": own.integer("llama.context_length"),
        "rope_theta": _shortest(own.number("llama.rope.freq_base", 10_000.0)),
        "rms_norm_eps": _shortest(own.number("llama.attention.layer_norm_rms_epsilon")),
        "hidden_act": "silu",
        "tie_word_embeddings": not untied,
    }
    for key in ("bos", "eos"):
        entries[f"{key}_token_id"] = metadata.get(f"tokenizer.ggml.{key}_token_id")
    entries["pad_token_id"] = metadata.get("tokenizer.ggml.padding_token_id")
    return Entries(path, entries)


def _shortest(value: float) -> float:
    """The shortest decimal of a float32 number: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
