"""How good a model is, without training: text, and how well a language model predicts it."""

from __future__ import annotations

from dst.core import extras

extras.check("flax")

from dst.eval.embeddings import cosine as cosine  # noqa: E402
from dst.eval.language import Quality as Quality  # noqa: E402
from dst.eval.language import check as check  # noqa: E402
from dst.eval.language import generate as generate  # noqa: E402
from dst.eval.language import language as language  # noqa: E402
from dst.eval.matrices import sparsity as sparsity  # noqa: E402
from dst.eval.text import Sides as Sides  # noqa: E402
from dst.eval.text import consecutive as consecutive  # noqa: E402
from dst.eval.text import drawn as drawn  # noqa: E402
from dst.eval.text import sides as sides  # noqa: E402
from dst.eval.text import tokens as tokens  # noqa: E402
from dst.eval.text import whole as whole  # noqa: E402

__all__ = [
    "Quality",
    "Sides",
    "check",
    "consecutive",
    "cosine",
    "drawn",
    "generate",
    "language",
    "sides",
    "sparsity",
    "tokens",
    "whole",
]
