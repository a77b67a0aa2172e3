"""W&B's agent, as far as it can be had without its server: what it starts, and with what."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

IDENTITY = {"WANDB_SWEEP_ID": "toysweep", "WANDB_RUN_ID": "run00001"}


def started(
    monkeypatch: pytest.MonkeyPatch, file: Path, arguments: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """The command, and the environment beside ours, of a run that the server asks for.

    Args:
      file: the sweep.
      arguments: values by parameter, nested ones as dictionaries.
    """
    from wandb import wandb_agent

    calls: list[dict[str, Any]] = []

    class Process:
        def __init__(self, **options: Any):
            calls.append(options)

    with monkeypatch.context() as patch:
        for name in IDENTITY:
            patch.setenv(name, IDENTITY[name])
        patch.setenv("WANDB_DIR", str(Path.cwd()))
        patch.delenv("WANDB_SWEEP_PARAM_PATH", raising=False)
        patch.setattr(wandb_agent, "AgentProcess", Process)
        agent = wandb_agent.Agent(api=None, queue=None, sweep_id=IDENTITY["WANDB_SWEEP_ID"])
        # As the agent has it from the server: YAML 1.1.
        agent._sweep_command = yaml.safe_load(file.read_text(encoding="utf-8"))["command"]
        command = {
            "type": "run",
            "run_id": IDENTITY["WANDB_RUN_ID"],
            "program": "train.py",
            "args": {name: {"value": value} for name, value in arguments.items()},
        }
        answer = agent._process_command(command)
        assert "exception" not in answer, answer
        os.environ.pop("WANDB_SWEEP_PARAM_PATH", None)  # the agent sets it for good
    (call,) = calls
    own = {k: v for k, v in call["env"].items() if k.startswith("WANDB_")}
    return call["command"], own
