"""Numbers have bounds: what no machine can count, build or wait for is refused at once, by key."""

from __future__ import annotations

import time

import pytest

from dst.studies.lottery import config as lottery
from dst.train import setup
from dst.train.config import plain_data
from dst.train.config import run as config
from dst.train.config.run import ConfigError
from tests.training import ROOT

DIGITS = ROOT / "configs/digits/rigl.yaml"
TICKETS = ROOT / "configs/digits/lottery.yaml"
CODE = ROOT / "configs/stdlib/rigl.yaml"
SLOWEST = 10  # seconds of the processor; each took minutes, or gigabytes
LARGEST = 2**31 - 1


def made(path, *overrides):
    pieces = setup.make(config.load(path, overrides))
    return pieces, pieces.costs()


@pytest.mark.parametrize(
    ("path", "overrides", "expected"),
    [
        (DIGITS, ["train.steps=100000000"], "method: every=100 gives 749999 topology steps"),
        (DIGITS, [f"train.steps={LARGEST}", "method.stop=100%"], "more than 100000"),
        (DIGITS, ["train.steps=1000000", "method.every=1"], "Raise `every`, or lower `stop`"),
        (DIGITS, [f"train.recalibrate={LARGEST}"], "train.recalibrate must be at most 22"),
        (DIGITS, ["train.recalibrate=1000000000000"], "train.recalibrate must be an integer >= 0"),
        (DIGITS, [f"model.hidden={[1] * 1001}"], "model.hidden must have at most 1000 entries"),
        (DIGITS, ["model.name=resnet20", "model.stages=[1001]"], r"model.stages\[0\] must .*1000"),
        (DIGITS, ["model.name=resnet50", f"model.stages={[1] * 17}"], "model.stages .* at most 16"),
        (DIGITS, ["model.name=wide-resnet", "model.depth=1000000"], "model.depth .*<= 1000"),
        (CODE, ["model.layers=1000000"], "model.layers must be an integer >= 1 and <= 1000"),
    ],
    ids=lambda x: x[-1][:40] if isinstance(x, list) else "",
)
def test_a_number_that_is_too_large_is_refused_with_its_key_and_its_bound(
    path, overrides, expected
):
    start = time.process_time()
    with pytest.raises(ConfigError, match=expected) as error:
        made(path, *overrides)
    assert len(str(error.value)) < 1500
    assert time.process_time() - start < SLOWEST


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"rounds": LARGEST}, "lottery.rounds must be an integer >= 1 and <= 1000"),
        ({"points": LARGEST}, "lottery.points must be an integer >= 2 and <= 10000"),
        ({"name": "connectivity", "points": 10**6}, "lottery.points .*<= 10000"),
        ({"name": "random_search", "budget": 10**6}, "lottery.budget .*<= 10000"),
    ],
)
def test_a_study_of_too_many_runs_is_refused_with_its_key_and_its_bound(
    section, expected, tmp_path
):
    path = tmp_path / "study.yaml"
    path.write_text(plain_data.to_yaml({**plain_data.read(TICKETS), "lottery": section}))
    with pytest.raises(ConfigError, match=expected):
        lottery.load(path)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.every=1", "method.stop=null", "method.decay=constant"],
        ["method={'name': 'set', 'every': 1}", "method.stop=null"],
        ["method={'name': 'mask-decay', 'start': '25%', 'stop': '75%'}"],
        ["method=dense"],
        ["method.every=300000"],
    ],
    ids=lambda x: x[0],
)
def test_the_costs_of_the_longest_training_take_no_longer_than_those_of_a_short_one(overrides):
    start = time.process_time()
    _, costs = made(DIGITS, f"train.steps={LARGEST}", *overrides)
    assert 0 < costs.training.relative <= 1
    assert time.process_time() - start < SLOWEST
