"""A directory that cannot have its name is refused by every command, before anything is done."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from dst import cli
from dst.studies import sweep
from dst.studies.lottery import config as studies
from dst.studies.lottery import study
from dst.train import loop
from dst.train.config import run as config
from dst.train.records.run_dir import DirectoryError
from tests.training import ROOT, write_small

BAD = ["a\0b", os.fsdecode(b"a\xffb")]  # NUL; a byte that is no UTF-8
SWEEP, LOTTERY = ROOT / "configs/digits/sweep.yaml", ROOT / "configs/digits/lottery.yaml"
COMMANDS = {
    "train": lambda where: ["train", "small.yaml", "--dir", where],
    "lottery": lambda where: ["lottery", str(LOTTERY), "--dir", where],
    "sweep": lambda where: ["sweep", str(SWEEP), "--dir", where],
    "resume": lambda where: ["resume", where],
    "report": lambda where: ["report", where],
    "init": lambda where: ["init", where],
    "inspect": lambda where: ["inspect", where],
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)


@pytest.mark.parametrize(
    ("command", "name"),
    # `report` and `inspect` only read, and names of any bytes can be read.
    [(x, name) for x in COMMANDS for name in BAD if x not in ("report", "inspect") or "\0" in name],
    ids=ascii,
)
def test_a_command_refuses_a_directory_that_no_file_system_and_no_report_can_hold(
    command, name, monkeypatch, capsys
):
    if command == "sweep":
        monkeypatch.chdir(ROOT)  # from where it names its config
    before = sorted(Path().iterdir())
    assert cli.main(COMMANDS[command](name)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err
    assert sorted(Path().iterdir()) == before


def test_a_command_in_several_processes_refuses_it_too(capsys):
    assert cli.main(["launch", "-n", "2", "train", "small.yaml", "--dir", "a\0b"]) == 2
    assert r"an argument has no NUL in it, got 'a\x00b'" in capsys.readouterr().err


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_python_refuses_it_with_the_same_message(name, monkeypatch):
    def swept():
        monkeypatch.chdir(ROOT)
        sweep.run(sweep.load(SWEEP), name)

    for use in (
        lambda: loop.train(config.load("small.yaml"), Path(name)),
        lambda: loop.resume(Path(name)),
        lambda: study.run(studies.load(LOTTERY), Path(name)),
        swept,
    ):
        with pytest.raises(DirectoryError, match="UTF-8 characters other than NUL, got 'a"):
            use()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["launch", "-n", "1000000000", "train", "small.yaml"], "less than or equal to 1000"),
        (
            ["launch", "-n", "2", "--devices-per-process", "1000000000", "train", "small.yaml"],
            "less than or equal to 1000",
        ),
        (["sweep", str(SWEEP), "--workers", "1000000000"], "workers must be .* <= 1000"),
    ],
)
def test_more_processes_than_a_machine_can_start_are_refused(
    arguments, expected, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 2

    assert re.search(expected, capsys.readouterr().err)
