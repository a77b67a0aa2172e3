"""transformers opens what is saved here, and what it saves is opened here: the same logits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dst import models
from tests.models.pretrained.checkpoints import LLAMA, LLAMA3, directory, llama

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 9))


@pytest.mark.parametrize(
    "changes", [{}, {"rope_scaling": LLAMA3, "head_dim": 16}, {"model_type": "qwen2"}]
)
def test_both_directions_give_the_same_logits(changes, tmp_path):
    config = {**LLAMA, **changes}
    ours = models.load(directory(tmp_path / "in", config, llama(config)))
    models.save(tmp_path / "out", ours)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(ours(jnp.asarray(TOKENS)), expected, rtol=0, atol=1e-3)
    theirs.save_pretrained(tmp_path / "back")
    back = models.load(tmp_path / "back")
    np.testing.assert_allclose(back(jnp.asarray(TOKENS)), expected, rtol=0, atol=1e-3)
