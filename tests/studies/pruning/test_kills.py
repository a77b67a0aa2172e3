"""Evidence: a pruning that is killed at random moments ends with the bits of one that was not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.faults import row
from tests.studies.pruning import small

ROOT = Path(__file__).parents[3]
KILLS = 10


def start(model, text, out):
    command = ["prune", model, "--method", "sparsegpt", "--sparsity", "0.6", "--allocation", "owl"]
    command += ["--calibration", text, "--windows", "16x16", "--dir", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "dst.cli", *map(str, command)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error


@pytest.mark.evidence
def test_ten_kills_cost_stages_and_no_bit(tmp_path):
    text = small.text(tmp_path / "text.txt", 5000)
    model = small.decoder(tmp_path / "model", num_hidden_layers=12)
    began = time.perf_counter()
    finished(start(model, text, tmp_path / "whole"))
    seconds = time.perf_counter() - began
    moments, killed, out = random.Random(0), 0, tmp_path / "out"
    stages = []
    while killed < KILLS:
        process = start(model, text, out)
        # Prunings grow shorter; kills that come too late begin another one.
        try:
            _, error = process.communicate(timeout=moments.uniform(0.2, 1.0) * seconds)
            assert process.returncode == 0, error
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            stages.append(len(list((tmp_path / "out.part" / "stages").glob("stage_*"))))
            if not out.exists():  # it may have come at the very end
                continue
        assert load_file(out / "model.safetensors").keys()
        out.rename(tmp_path / f"out{killed}")
    while not out.exists():
        finished(start(model, text, out))
    ends = [out, *tmp_path.glob("out[0-9]*")]
    for name in ("model.safetensors", "masks.safetensors", "config.json", "tokenizer.json"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert all((end / name).read_bytes() == expected for end in ends), name
    row(f"dst prune, {KILLS} SIGKILLs, {stages} stages kept", "the same bits", "unfinished stages")
