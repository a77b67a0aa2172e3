"""Laws of several processes as one run: they train like one, stop together, and go on together.

All of them are real processes on this machine, under `dst launch`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import dst
from dst.train import checkpoint, config, directory, hosts, logs, setup
from tests import faults
from tests.faults import ended, last_step, records, row, until
from tests.training import ROOT, assert_same, small, states_in, write_small

# Compilation is most of what short runs cost.
QUICK = "--xla_backend_optimization_level=0"
EIGHT = "--xla_force_host_platform_device_count=8"
HEARTBEAT, MARGIN = 10, 30  # seconds; the margin is for a machine with other work


def launch(devices: int, *arguments: object, **environment: str):
    """Two processes."""
    command = ("launch", "-n", 2, "--devices-per-process", devices, *arguments)
    return faults.dst(*command, f"hosts.heartbeat={HEARTBEAT}", **environment)


def done(process) -> str:
    """What a process has printed that must succeed."""
    code, out, err = ended(process)
    assert code == 0, err
    return out


def lines(run: Path, kind: str) -> list[dict]:
    return [line for line in records(run) if line["kind"] == kind]


def test_two_processes_train_like_one(tmp_path):
    """Weights, masks and moments are divided among all devices, so no process has them whole."""
    settings = (
        "train={'steps': 12, 'log_every': 3, 'eval_every': 6, 'checkpoint_every': 6}",
        "train.snapshots=[6]",
        "method.every=4",
        "mesh={'data': -1, 'fully_sharded': True}",
    )
    path, one, two = write_small(tmp_path), tmp_path / "one", tmp_path / "two"
    both = launch(2, "train", path, *settings, "--dir", two, XLA_FLAGS=QUICK)
    four = f"{QUICK} --xla_force_host_platform_device_count=4"
    alone = faults.dst("train", path, *settings, "--dir", one, XLA_FLAGS=four, JAX_PLATFORMS="cpu")
    out = done(both)
    done(alone)
    assert out.count("test accuracy") == 1  # one of them talks
    assert (two / "report.html").is_file()
    assert config.load(two / directory.CONFIG).hosts == hosts.Hosts(heartbeat=HEARTBEAT)

    for name in (directory.MASKS_INITIAL, directory.MASKS_FINAL):
        first, second = dst.load_masks(one / name), dst.load_masks(two / name)
        assert_same(first, second)
    first, second = (dst.load_weights(run / directory.weights(6)) for run in (one, two))
    for name, weight in first.items():
        np.testing.assert_allclose(weight, second[name], rtol=1e-3, atol=1e-5)
    assert [(x["step"], x["kind"]) for x in records(one)] == [
        (x["step"], x["kind"]) for x in records(two)
    ]
    for a, b in zip(records(one), records(two), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if isinstance(a[key], int):
                assert a[key] == b[key], key
            elif key not in ("accuracy",):
                np.testing.assert_allclose(a[key], b[key], rtol=1e-3, err_msg=key)
    whole = [checkpoint.damage(two / directory.CHECKPOINTS, n) for n in (0, 6, 12)]
    assert whole == [None] * 3


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"coordinator": "here"}, "coordinator must be null, auto or host:port, got 'here'"),
        ({"coordinator": "a:1", "process": 0}, "processes"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process must be below 2"),
        ({"processes": 2}, "processes must be null unless coordinator is host:port, got 2"),
        ({"heartbeat": 0}, "heartbeat"),
    ],
)
def test_addresses_that_are_none(given, expected):
    with pytest.raises(ValueError, match=expected):
        hosts.Hosts(**given)


def test_one_process_starts_nothing():
    import jax

    hosts.join(hosts.Hosts())
    assert not jax.distributed.is_initialized()
    assert hosts.first()
    assert hosts.decided(lambda: 3) == 3
    tree = {"x": np.ones(3)}
    assert hosts.gathered(tree) is tree
