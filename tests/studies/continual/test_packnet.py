"""PackNet: masks by hand; weights of earlier tasks keep every bit."""

from __future__ import annotations

import numpy as np
import pytest

import dst
from dst.studies import continual
from dst.studies.continual import packnet
from dst.studies.continual.sequence import Tasks
from dst.train.records import run_dir
from tests.studies.continual.small import STEPS, study

OVERRIDES = (
    "continual.strategy={name: packnet, prune: 0.6}",
    "optimizer={name: adamw, weight_decay: 0.1, learning_rate: 0.01}",
)
TASKS = 2
KERNEL, BIAS, HEAD = "hidden/0/kernel", "hidden/0/bias", ("out/kernel", "out/bias")


def test_two_tasks_by_hand():
    """Of six weights, floor(.5 * 6) become free, then floor(.5 * 3)."""
    first = {"w": np.array([0.8, -0.5, 0.1, 0.3, -0.9, 0.5], np.float32)}
    none = {"w": np.zeros(6, bool)}
    masks = packnet.pack(first, none, 0.5, {"w": 0})
    assert masks["w"].tolist() == [True, True, False, False, True, False]  # of equal, the first
    second = {"w": np.array([0.8, -0.5, 0.01, -0.02, -0.9, 0.005], np.float32)}
    masks = packnet.pack(second, masks, 0.5, {"w": 0})
    assert masks["w"].tolist() == [True, True, True, True, True, False]


@pytest.mark.parametrize("share", [0.3, 0.75])
def test_a_task_keeps_the_largest_free_weights_of_every_layer(share):
    random = np.random.default_rng(0)
    weights = {"a": random.normal(size=(9, 7)), "s": random.normal(size=(3, 6, 5))}
    weights = {k: x.astype(np.float32) for k, x in weights.items()}
    used = {k: np.zeros(x.shape, bool) for k, x in weights.items()}
    for _ in range(2):
        masks = packnet.pack(weights, used, share, {"a": 0, "s": 1})
        for path, layers in (("a", 1), ("s", 3)):
            both = zip(*(x[path].reshape(layers, -1) for x in (weights, used, masks)), strict=True)
            for w, before, after in both:
                assert not (before & ~after).any()
                free, own = ~before, after & ~before
                n = free.sum()
                assert own.sum() == n - int(np.floor(share * n))
                kept = np.sort(np.abs(w[free]))[n - own.sum() :]
                np.testing.assert_array_equal(np.sort(np.abs(w[own])), kept)
        used = masks


def test_a_layer_without_free_weights_is_refused():
    with pytest.raises(ValueError, match=r"w has no weight left .* continual\.strategy\.prune"):
        packnet.pack({"w": np.ones(3)}, {"w": np.ones(3, bool)}, 0.5, {"w": 0})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two tasks."""
    folder = tmp_path_factory.mktemp("packnet")
    continual.run(study(folder, *OVERRIDES), folder / "study")
    return folder / "study"


def _last(where, name, steps):
    return dst.load_weights(where / name / run_dir.weights(steps))


def _masks(where, number):
    return dst.load_masks(where / f"masks-{number:02d}.safetensors")


def test_weights_of_earlier_tasks_keep_every_bit(finished):
    numbers = range(1, TASKS + 1)
    ends = [_last(finished, f"task-{i:02d}", STEPS // 2) for i in numbers]
    wide = [_last(finished, f"task-{i:02d}-dense", STEPS) for i in numbers]
    for i in range(TASKS - 1):
        used = _masks(finished, i + 1)[KERNEL]
        for later in (*ends[i + 1 :], *wide[i + 1 :]):
            assert later[KERNEL][used].tobytes() == ends[i][KERNEL][used].tobytes()
            assert later[BIAS].tobytes() == ends[i][BIAS].tobytes()
        free = ~used
        assert (wide[i + 1][KERNEL][free] != 0).mean() > 0.5, "free weights are trained"
        assert not ends[i][KERNEL][free].any(), "what became free is zero"
        for path in HEAD:
            assert (ends[i + 1][path] != ends[i][path]).any(), "every task has its own head"
    counts = [int(_masks(finished, i)[KERNEL].sum()) for i in numbers]
    own, free = [], 64 * 16
    for _ in counts:
        own.append(free - int(0.6 * free))
        free -= own[-1]
    assert counts == np.cumsum(own).tolist()


def test_the_network_of_a_task_is_the_same_after_later_tasks(finished):
    tasks = Tasks(continual.load(finished / "config.yaml"))
    after = packnet.learn(tasks, finished, TASKS)
    for number in range(1, TASKS + 1):
        then = _last(finished, f"task-{number:02d}", STEPS // 2)
        now = after.weights(number)
        assert now.keys() == then.keys()
        for path, weight in now.items():
            assert weight.tobytes() == then[path].tobytes(), path
    result = continual.read(finished)
    assert result["backward_transfer"] == result["forgetting"] == 0
    for row in result["rows"]:
        assert row["accuracies"][: row["task"] - 1] == [
            x["accuracies"][-1] for x in result["rows"][: row["task"] - 1]
        ]
