"""How good a model is, without training: how well it predicts text, and :mod:`dst.eval.tasks`."""

from __future__ import annotations

from dst.core import extras

extras.check("flax")

from dst.eval.correlation import spearman as spearman  # noqa: E402
from dst.eval.embeddings import cosine as cosine  # noqa: E402
from dst.eval.embeddings import embed as embed  # noqa: E402
from dst.eval.intervals import bootstrap as bootstrap  # noqa: E402
from dst.eval.intervals import wilson as wilson  # noqa: E402
from dst.eval.language import Quality as Quality  # noqa: E402
from dst.eval.language import check as check  # noqa: E402
from dst.eval.language import generate as generate  # noqa: E402
from dst.eval.language import language as language  # noqa: E402
from dst.eval.likelihood import likelihoods as likelihoods  # noqa: E402
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
    "bootstrap",
    "check",
    "consecutive",
    "cosine",
    "drawn",
    "embed",
    "generate",
    "language",
    "likelihoods",
    "sides",
    "sparsity",
    "spearman",
    "tokens",
    "whole",
    "wilson",
]
