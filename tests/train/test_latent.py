"""Latent-weight methods in the trainer: runs, records, resumption, report."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dst
from dst.report.run import write_report
from dst.train import loop
from dst.train.config import run as config
from dst.train.config.lint import advice
from tests.training import SMALL, assert_same, states_in

METHODS = {
    "sr-ste": "{name: sr-ste, n: 2, m: 4}",
    "top-kast": "{name: top-kast, sparsity: 0.8, backward_sparsity: 0.5, every: 5}",
    "edge-popup": "{name: edge-popup, sparsity: 0.5}",
    "top-k-weights": "{name: top-k-weights, sparsity: 0.8, anneal: 50%}",
}
SPARSITY = {"sr-ste": 0.5, "top-kast": 0.8, "edge-popup": 0.5, "top-k-weights": 0.8}


def written(folder, name):
    """The small config with a latent method, 20 steps."""
    lines = [line for line in SMALL.splitlines() if not line.startswith(("method:", "train:"))]
    lines.append(f"method: {METHODS[name]}")
    lines.append("train: {steps: 20, log_every: 5, eval_every: 10, checkpoint_every: 10}")
    path = folder / "config.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return config.load(path)


CASES = [
    pytest.param(n, marks=[] if n == "top-k-weights" else pytest.mark.evidence) for n in METHODS
]


@pytest.mark.parametrize("name", CASES)
def test_a_run_trains_resumes_and_reports(name, tmp_path):
    run, given = tmp_path / "run", written(tmp_path, name)
    assert advice(given) == []
    loop.train(given, run, until=10)
    loop.resume(run)
    figures = json.loads((run / "summary.json").read_text())
    assert figures["sparsity"] == pytest.approx(SPARSITY[name], abs=0.01)
    assert figures["topology_steps"] == (3 if name == "top-kast" else 0)
    masks = dst.load_masks(run / "masks-final.safetensors")
    assert {r["path"]: r["active"] for r in figures["layers"] if r["path"] in masks} == {
        path: int(np.asarray(m).sum()) for path, m in masks.items()
    }
    page = write_report(run).read_text()
    assert name in page
    if name == "top-kast":
        whole = tmp_path / "whole"
        loop.train(given, whole)
        assert_same(states_in(run)[20], states_in(whole)[20])
