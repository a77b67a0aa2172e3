"""Piggyback and SupSup: masks of tasks over one network that never changes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.studies import continual
from dst.studies.continual.inference import _answer, entropy_slopes
from dst.train.records import run_dir
from tests.studies.continual.small import STEPS, study

PIGGYBACK = (
    "method={name: piggyback, expected: 0.3}",
    "continual.strategy=piggyback",
    "optimizer={name: adamw, learning_rate: 0.01}",
)
SUPSUP = ("method={name: edge-popup, sparsity: 0.5}", "optimizer.learning_rate=1.0")
KERNEL, BIAS = "hidden/0/kernel", "hidden/0/bias"


def _task(where, number):
    weights = dst.load_weights(where / f"task-{number:02d}" / run_dir.weights(STEPS))
    return weights, dst.load_masks(where / f"masks-{number:02d}.safetensors")


@pytest.mark.evidence
def test_piggyback_uses_the_weights_of_the_first_task_bit_for_bit(tmp_path):
    where = tmp_path / "study"
    result = continual.run(study(tmp_path, *PIGGYBACK), where)
    (first, ones), (second, masks) = (_task(where, i) for i in (1, 2))
    assert ones[KERNEL].all() and masks.keys() == ones.keys() == {KERNEL}
    assert 0 < masks[KERNEL].sum() < masks[KERNEL].size
    np.testing.assert_array_equal(second[KERNEL], np.where(masks[KERNEL], first[KERNEL], 0))
    assert second[BIAS].tobytes() == first[BIAS].tobytes()
    assert (second["out/kernel"] != first["out/kernel"]).any()
    assert result["backward_transfer"] == 0


@pytest.mark.evidence
def test_piggyback_masks_a_network_that_is_given(tmp_path):
    where = tmp_path / "study"
    continual.run(study(tmp_path, *PIGGYBACK), where)
    (first, _), (_, masks) = (_task(where, i) for i in (1, 2))
    given = f"start.weights={where / 'task-01' / run_dir.weights(STEPS)}"
    other = tmp_path / "given"
    continual.run(study(tmp_path, *PIGGYBACK, given), other)
    (again, chosen), (_, second_masks) = (_task(other, i) for i in (1, 2))
    assert not chosen[KERNEL].all(), "with weights that are given, the first task has a mask too"
    np.testing.assert_array_equal(again[KERNEL], np.where(chosen[KERNEL], first[KERNEL], 0))
    np.testing.assert_array_equal(second_masks[KERNEL], masks[KERNEL])


@pytest.mark.parametrize("sure", [0, 1])
def test_an_example_is_of_the_task_whose_weights_make_the_network_sure(sure):
    used = [jnp.array([[0.0, 0.1, 0.0]]), jnp.array([[0.0, 0.1, 0.0]])]
    used[sure] = jnp.array([[2.0, 0.0, 0.0]])
    answers, tasks = _answer(lambda w, x: x @ w, used, jnp.ones((2, 1)))
    assert tasks.tolist() == [sure] * 2 and answers.tolist() == [0, 0]


@pytest.mark.evidence
def test_supsup_infers_tasks_on_one_random_network(tmp_path):
    where = tmp_path / "study"
    infer = ("continual.strategy={name: supsup, infer: true}", "continual.scenario=class")
    result = continual.run(study(tmp_path, *SUPSUP, *infer), where)
    (first, masks), (second, others) = (_task(where, i) for i in (1, 2))
    assert masks.keys() == {KERNEL, "out/kernel"}
    for path, mask in masks.items():
        size = np.abs(first[path][mask])
        np.testing.assert_array_equal(size, size[0])  # signed constants
        both = mask & others[path]
        assert first[path][both].tobytes() == second[path][both].tobytes() and both.any()
        assert (mask != others[path]).any()
    assert first[BIAS].tobytes() == second[BIAS].tobytes()
    rows = result["rows"]
    assert rows[0]["inferred"] == [1.0]
    assert all(0 <= x <= 1 for row in rows for x in row["inferred"] + row["accuracies"])
    assert "tasks inferred: " in continual.table(result)


def test_slopes_of_the_entropy_are_differences_of_entropies():
    random = np.random.default_rng(0)
    used = [random.normal(size=(4, 3)) * (random.uniform(size=(4, 3)) < 0.5) for _ in range(3)]
    inputs = random.normal(size=(7, 4))

    def entropies(shares):
        logits = inputs @ sum(a * w for a, w in zip(shares, used, strict=True))
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return -(p * np.log(p)).sum(-1)

    middle, step = np.full(3, 1 / 3), 1e-5
    expected = [
        (entropies(middle + step * e) - entropies(middle - step * e)) / (2 * step)
        for e in np.eye(3)
    ]
    weights = [jnp.asarray(w, jnp.float32) for w in used]
    found = entropy_slopes(lambda w, x: x @ w, weights, jnp.asarray(inputs, jnp.float32))
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=1e-3, atol=1e-5)


@pytest.mark.evidence
def test_inference_finds_most_tasks_of_permuted_inputs(tmp_path):
    where = tmp_path / "study"
    infer = ("continual.strategy={name: supsup, infer: true}", "continual.scenario=domain")
    longer = ("train.steps=300", "train.eval_every=300", "train.checkpoint_every=300")
    wide = ("model.hidden=[256]", "optimizer={name: adam, learning_rate: 0.01}")
    result = continual.run(study(tmp_path, *SUPSUP, *infer, *longer, *wide), where)
    found = result["rows"][-1]["inferred"]
    assert np.mean(found) > 0.7, found  # by chance: 0.5
