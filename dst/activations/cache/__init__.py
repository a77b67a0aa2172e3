"""Caches of keys and values that stay within a budget: policies, generation, perplexity, bytes."""

from __future__ import annotations

from dst.core import extras

extras.check("flax")

from dst.activations.cache.cam import CaM as CaM  # noqa: E402
from dst.activations.cache.double_sparsity import DoubleSparsity as DoubleSparsity  # noqa: E402
from dst.activations.cache.double_sparsity import label_channels as label_channels  # noqa: E402
from dst.activations.cache.eviction import Eviction as Eviction  # noqa: E402
from dst.activations.cache.eviction import Policy as Policy  # noqa: E402
from dst.activations.cache.eviction import Reading as Reading  # noqa: E402
from dst.activations.cache.full import Full as Full  # noqa: E402
from dst.activations.cache.generate import generate as generate  # noqa: E402
from dst.activations.cache.h2o import H2O as H2O  # noqa: E402
from dst.activations.cache.layer import Layer as Layer  # noqa: E402
from dst.activations.cache.local import Local as Local  # noqa: E402
from dst.activations.cache.memory import Memory as Memory  # noqa: E402
from dst.activations.cache.memory import memory as memory  # noqa: E402
from dst.activations.cache.model import Cache as Cache  # noqa: E402
from dst.activations.cache.model import decode as decode  # noqa: E402
from dst.activations.cache.model import prefill as prefill  # noqa: E402
from dst.activations.cache.model import start as start  # noqa: E402
from dst.activations.cache.perplexity import perplexity as perplexity  # noqa: E402
from dst.activations.cache.snapkv import SnapKV as SnapKV  # noqa: E402
from dst.activations.cache.streaming_llm import StreamingLLM as StreamingLLM  # noqa: E402
from dst.activations.cache.strided import Strided as Strided  # noqa: E402
from dst.activations.cache.tova import TOVA as TOVA  # noqa: E402

__all__ = [
    "H2O",
    "TOVA",
    "Cache",
    "CaM",
    "DoubleSparsity",
    "Eviction",
    "Full",
    "Layer",
    "Local",
    "Memory",
    "Policy",
    "Reading",
    "SnapKV",
    "StreamingLLM",
    "Strided",
    "decode",
    "generate",
    "label_channels",
    "memory",
    "perplexity",
    "prefill",
    "start",
]
