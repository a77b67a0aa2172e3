"""Offline runs of Weights & Biases, read back with W&B's own reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def environment(folder: Path) -> dict[str, str]:
    """Where the client keeps what is not in a run directory: in a folder of the test."""
    return {f"WANDB_{x}_DIR": str(folder / x.lower()) for x in ("DATA", "CACHE", "CONFIG")}


def dst(folder: Path, *arguments: str, **more: str) -> None:
    """Runs a ``dst`` command in a folder; neither it nor W&B may fail."""
    process = subprocess.run(
        [sys.executable, "-m", "dst.cli", *arguments],
        cwd=folder,
        env={**os.environ, **environment(folder), **more},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "warning: Weights & Biases" not in process.stderr, process.stderr


class Record:
    """One offline run.

    Attributes:
      path: its directory.
      content: what W&B's reader says, in order.
    """

    def __init__(self, path: Path):
        reader = Path(sys.executable).with_name("wandb")
        command = [reader, "leet", "inspect", "--json", path]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self.path, self.content = path, [json.loads(line) for line in out.splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All records of a kind."""
        return [x[kind] for x in self.content if x["type"] == kind]

    @property
    def start(self) -> dict[str, Any]:
        """What the run is: its id, name, group, tags, config."""
        (start,) = self.of("run")
        return start

    @property
    def rows(self) -> dict[int, dict[str, Any]]:
        """History by row."""
        return {x["step"]["num"]: x["item"] for x in self.of("history")}

    @property
    def summary(self) -> dict[str, Any]:
        """The summary at the end; of metrics with several aggregates, a dictionary."""
        last: dict[str, Any] = {}
        for x in self.of("summary"):
            for name, value in x.get("update", {}).items():
                outer, dot, inner = name.partition(".")
                if dot and isinstance(last.get(outer), Mapping):
                    last[outer] = {**last[outer], inner: value}
                else:
                    last[name] = value
        return last

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        """Artifacts by name; ``files`` are those in each, by name, and where they lie."""
        return {
            x["name"]: x
            | {"files": {f["path"]: f["local_path"] for f in x["manifest"]["contents"]}}
            for x in self.of("artifact")
        }

    @property
    def aggregates(self) -> dict[str, list[str]]:
        """What the summary holds of each metric; all of them are charted over ``step``."""
        defined = self.of("metric")
        assert {x["step_metric"] for x in defined} == {"step"}
        return {x["name"]: sorted(x.get("summary", {})) for x in defined}


def parts(run: Path) -> list[Record]:
    """The offline runs in a run directory: one, or one for each time that it was resumed."""
    found = sorted((run / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    return [Record(path) for path in found]
