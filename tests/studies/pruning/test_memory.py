"""How much memory `dst prune` takes beside the model, on a real language model."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.pretrained import smollm2

LOAD = """
import sys
import jax
from flax import nnx
from dst.models import load
jax.block_until_ready(nnx.state(load(sys.argv[1])))
"""


def peak(*arguments: str) -> float:
    """The largest resident memory of a process with one device, in GB."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


@pytest.mark.evidence
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_pruning_takes_at_most_a_gigabyte_and_a_half_beside_the_model(tmp_path, method):
    model, options = str(smollm2()), ("--sparsity", "0.5", "--dir", str(tmp_path / "out"))
    pruned = peak("-m", "dst.cli", "prune", model, "--method", method, *options)
    assert pruned - peak("-c", LOAD, model) <= 1.5
