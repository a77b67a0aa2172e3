"""LLaMA's forward pass in NumPy, from tensors by their published names: float64, head by head.

Written from the papers and the form of the files, not from the network in the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def speeds(config: Mapping[str, Any], size: int) -> np.ndarray:
    """The angle per position of each pair of channels; of ``llama3`` as its authors write it."""
    speed = 1.0 / config.get("rope_theta", 10_000.0) ** (np.arange(0, size, 2) / size)
    rope = config.get("rope_scaling")
    if not rope:
        return speed
    if rope["rope_type"] == "linear":
        return speed / rope["factor"]
    slow, context = [], rope["original_max_position_embeddings"]
    for x in speed:
        wavelength = 2 * np.pi / x
        if wavelength < context / rope["high_freq_factor"]:
            slow.append(x)
        elif wavelength > context / rope["low_freq_factor"]:
            slow.append(x / rope["factor"])
        else:
            span = rope["high_freq_factor"] - rope["low_freq_factor"]
            smooth = (context / wavelength - rope["low_freq_factor"]) / span
            slow.append((1 - smooth) * x / rope["factor"] + smooth * x)
    return np.array(slow)


def forward(
    read: Callable[[str], np.ndarray | None],
    config: Mapping[str, Any],
    tokens: np.ndarray,
    *,
    neighbours: bool = False,
) -> np.ndarray:
    """Logits ``[length, vocabulary]`` of one sequence.

    Args:
      read: a tensor by its name, ``[outputs, inputs]``; None where there is none.
      config: entries of ``config.json``.
      tokens: int ``[length]``.
      neighbours: whether channels 2i and 2i + 1 are a pair, as in the files of llama.cpp.
    """

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        y = x @ np.float64(read(f"{name}.weight")).T
        bias = read(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scale = np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"])
        return x / scale * np.float64(read(f"{name}.weight"))

    def turn(x: np.ndarray) -> np.ndarray:  # [length, size]
        half = x.shape[-1] // 2
        angle = np.arange(len(x))[:, None] * speeds(config, x.shape[-1])[None]
        a, b = (x[:, ::2], x[:, 1::2]) if neighbours else (x[:, :half], x[:, half:])
        a, b = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return np.concatenate([a, b], axis=-1)  # the order does not matter: it is that of the keys

    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    x = np.float64(read("model.embed_tokens.weight")[tokens])
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        y = norm(x, f"{at}.input_layernorm")
        query, key, value = (linear(y, f"{at}.self_attn.{n}_proj") for n in "qkv")
        size = query.shape[-1] // heads
        future = np.triu(np.full((len(x), len(x)), -np.inf), 1)
        mixed = []
        for head in range(heads):
            own, shared = (
                slice(h * size, (h + 1) * size) for h in (head, head // (heads // kv_heads))
            )
            scores = turn(query[:, own]) @ turn(key[:, shared]).T / np.sqrt(size) + future
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weight / weight.sum(-1, keepdims=True) @ value[:, shared])
        x = x + linear(np.concatenate(mixed, axis=-1), f"{at}.self_attn.o_proj")
        y = norm(x, f"{at}.post_attention_layernorm")
        gate = linear(y, f"{at}.mlp.gate_proj")
        relu = config.get("hidden_act") == "relu"
        gate = np.maximum(gate, 0) if relu else gate / (1 + np.exp(-gate))
        x = x + linear(gate * linear(y, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    x = norm(x, "model.norm")
    head = read("lm_head.weight")
    return x @ np.float64(read("model.embed_tokens.weight") if head is None else head).T
