"""Laws of the training loop as a generator."""

from __future__ import annotations

from functools import partial

import pytest

from dst.train import loop, work
from dst.train.config import run as config
from dst.train.records import run_dir
from tests.training import write_small


def test_who_drives_the_loop_computes_its_updates(tmp_path):
    settings = config.load(write_small(tmp_path))
    run = loop.training(settings, tmp_path / "run")
    wanted = next(run)
    assert wanted.call.keywords == {"topology": False} and len(wanted.call.args) == 3
    run.close()  # and gives up its directory
    run_dir.lock(tmp_path / "run").close()


def test_an_error_of_an_update_closes_the_loop():
    closed = []

    def run():
        try:
            yield work.Update(partial(fail))
        finally:
            closed.append(True)

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        work.drive(run())
    assert closed
