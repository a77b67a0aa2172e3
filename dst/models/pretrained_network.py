"""A pretrained model as the network of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from flax import nnx

import dst.nnx
from dst.core.registry import named
from dst.io.safetensors import load_masks
from dst.models.pretrained import load
from dst.models.shapes import axes


@named("pretrained", inputs="tokens", files=("path",))
def pretrained_decoder(
    shape: Sequence[int],
    classes: int,
    *,
    path: str,
    dtype: Literal["float32", "float16", "bfloat16"] | None = "float32",
    scan: bool = False,
    lora: Literal["lora", "mask", "scale"] | None = None,
    rank: int = 16,
    alpha: float = 32.0,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """A pretrained language model, or what `dst prune` made of one, with its weights.

    The seed of a run has no part in its weights. Masks of `dst prune` come with `start.masks`.

    Args:
      shape: ``(length,)`` of the pieces of text.
      classes: tokens of the tokenizer.
      path: of a directory in the form of Hugging Face, or of a GGUF file.
      dtype: of the weights; null: as the file has them.
      scan: whether the blocks are one module with a leading axis of layers.
      lora: low-rank changes of the pruned matrices, as :class:`dst.nnx.SparseLoRA` has them; null:
        none. Train them with `optimizer.trainable: ["**/lora_*"]`.
      rank: of the changes.
      alpha: by which, divided by the rank, they are multiplied.
      rngs: of the changes.

    Raises:
      ValueError: no model there, or one that :func:`dst.models.load` refuses; an encoder; pieces of
        text beyond the context of the model; a tokenizer with more tokens than the model knows.

    Example:
      >>> pretrained_decoder((256,), 49152, path="SmolLM2-135M")  # doctest: +SKIP
    """
    (length,) = axes("pretrained", shape, "length")
    try:
        model: Any = load(path, dtype=dtype, scan=scan)
    except FileNotFoundError as error:
        raise ValueError(f"model.path: {error}") from error
    context = getattr(model, "context", None)
    if context is None:
        raise ValueError(
            f"model.path: a run of text needs a decoder, got the {type(model).__name__} in {path}."
        )
    if length > context:
        raise ValueError(
            f"data.context must be at most {context}, the context of the model in {path}, got "
            f"{length}."
        )
    known = model.embedding.num_embeddings
    if classes > known:
        raise ValueError(
            f"data.tokenizer has {classes} tokens, the model in {path} knows {known}. Use the "
            "tokenizer of the model."
        )
    if lora is not None:
        file = Path(path) / "masks.safetensors"
        masks = load_masks(file) if file.is_file() else None
        dst.nnx.add_lora(model, kind=lora, rank=rank, alpha=alpha, masks=masks, rngs=rngs)
    return model
