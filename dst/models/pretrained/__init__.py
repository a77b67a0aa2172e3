"""Pretrained models: from and to the directories of Hugging Face, and from GGUF files.

A family is one file with a table: which tensor is which leaf. Nothing that a file holds is run.
"""

from __future__ import annotations

from dst.core import extras

extras.check("flax")

from dst.models.pretrained.loading import load as load  # noqa: E402
from dst.models.pretrained.saving import save as save  # noqa: E402
from dst.models.pretrained.tokenizing import tokenizer as tokenizer  # noqa: E402
