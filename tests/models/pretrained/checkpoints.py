"""Small model directories and GGUF files, written without the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

LLAMA = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 16,
    "rope_theta": 1000.0,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 16,
    "hidden_act": "gelu",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def llama(config: dict[str, Any], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Random tensors of a LLaMA, by their published names and shapes ``[outputs, inputs]``."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size, words = config.get("head_dim", width // heads), config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (words, width), "model.norm.weight": (width,)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.self_attn.q_proj.weight": (heads * size, width),
            f"{at}.self_attn.k_proj.weight": (kv_heads * size, width),
            f"{at}.self_attn.v_proj.weight": (kv_heads * size, width),
            f"{at}.self_attn.o_proj.weight": (width, heads * size),
            f"{at}.post_attention_layernorm.weight": (width,),
            f"{at}.mlp.gate_proj.weight": (hidden, width),
            f"{at}.mlp.up_proj.weight": (hidden, width),
            f"{at}.mlp.down_proj.weight": (width, hidden),
        }
        if config["model_type"] == "qwen2":
            shapes[f"{at}.self_attn.q_proj.bias"] = (heads * size,)
            shapes |= {f"{at}.self_attn.{n}_proj.bias": (kv_heads * size,) for n in "kv"}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (words, width)
    return random(shapes, dtype)


def bert(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random tensors of a BERT with a pooler."""
    width, hidden, words = (config[n] for n in ("hidden_size", "intermediate_size", "vocab_size"))
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        linear = {
            f"{at}.attention.self.query": (width, width),
            f"{at}.attention.self.key": (width, width),
            f"{at}.attention.self.value": (width, width),
            f"{at}.attention.output.dense": (width, width),
            f"{at}.intermediate.dense": (hidden, width),
            f"{at}.output.dense": (width, hidden),
        }
        norms = {f"{at}.{n}.LayerNorm": (width,) for n in ("attention.output", "output")}
        for name, shape in {**linear, **norms}.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return random(shapes)


def random(shapes: dict[str, tuple[int, ...]], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Random numbers of these shapes."""
    numbers = np.random.default_rng(0)
    return {n: (numbers.normal(size=s) / 2).astype(dtype) for n, s in shapes.items()}


def directory(
    path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], shards: int = 1
) -> Path:
    """Writes a directory, its weights in so many files."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
        return path
    where = {name: f"part-{i % shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({n: x for n, x in tensors.items() if where[n] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return path


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as llama.cpp writes them: each channel beside its partner."""
    out, size = np.empty_like(rows), len(rows) // heads
    for head in range(heads):
        for i in range(size // 2):
            out[head * size + 2 * i] = rows[head * size + i]
            out[head * size + 2 * i + 1] = rows[head * size + size // 2 + i]
    return out


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_file(
    path: Path,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray],
    architecture: str = "llama",
    **entries: Any,
) -> Path:
    """Writes a GGUF file in the names and the order of llama.cpp."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_tokenizer_model(entries.get("model", "gpt2"))
    writer.add_tokenizer_pre(entries.get("pre", "smollm"))
    words = entries.get("words", [f"w{i}" for i in range(config["vocab_size"])])
    writer.add_token_list(words)
    writer.add_token_types(entries.get("types", [1] * len(words)))
    writer.add_token_merges(entries.get("merges", []))
    for name, x in tensors.items():
        if "q_proj" in name:
            x = interleaved(x, config["num_attention_heads"])
        if "k_proj" in name:
            x = interleaved(x, config["num_key_value_heads"])
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
