"""What a trial runs: ``dst train`` with a config, or a training script of the user's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dst.core import checks
from dst.core.text import short, shown
from dst.train.config import plain_data
from dst.train.config import run as configs
from dst.train.objectives.figures import SCORES
from dst.train.records.run_dir import DIRECTORY

ARGUMENTS = "${args_no_hyphens}"
# The numbers in `summary.json`; which scores there are depends on data and optimizer.
MEASURED = (
    *SCORES,
    *("sparsity", "sparsity_model", "explored", "training_cost", "forward_cost"),
    *("average_density", "topology_steps", "steps", "seconds", "compile_seconds", "test_labels"),
)
INTERPRETERS = ("python", "python3", "${interpreter}")


@dataclass(frozen=True)
class Train:
    """``dst train CONFIG``.

    Attributes:
      config: the file.
      fixed: overrides of every trial.
    """

    config: Path
    fixed: tuple[str, ...] = ()

    def load(self, overrides: Sequence[str]) -> configs.Config:
        """The config of a trial."""
        return configs.load(self.config, [*self.fixed, *overrides])

    def check(self, overrides: Sequence[str]) -> None:
        """Raises ConfigError unless a trial can have these values."""
        self.load(overrides)

    def check_metric(self, name: Any) -> None:
        """Raises ValueError unless trials have a figure of this name."""
        checks.one_of("metric.name", name, MEASURED)

    def overrides(self, sweep: str, number: int, chosen: Sequence[str]) -> list[str]:
        """What a trial adds to those of all. In W&B, trials of a sweep are a group."""
        own = [*chosen, f"name={sweep}-{number:05d}"]
        given = configs.merged(self.config, [*self.fixed, *own]).get("wandb") or {}
        defaults = {"group": sweep, "job_type": "trial"}
        missing = {k: v for k, v in defaults.items() if given.get(k) is None}
        return [*own, f"wandb={missing!r}"] if missing else own

    def words(self, run: Path, overrides: Sequence[str], started: bool) -> list[str]:
        """What the process of a trial is; one that has started resumes."""
        dst = [sys.executable, "-m", "dst.cli"]
        if started:
            return [*dst, "resume", str(run)]
        return [*dst, "train", str(self.config), *self.fixed, *overrides, "--dir", str(run)]

    def environment(self, run: Path) -> Mapping[str, str]:
        """What the environment of the process has beside that of this one."""
        return {}


@dataclass(frozen=True)
class Script:
    """``python SCRIPT``, which writes its records by :class:`dst.train.Recorder`.

    Attributes:
      script: the file.
      fixed: arguments of every trial.
    """

    script: Path
    fixed: tuple[str, ...] = ()

    def check(self, overrides: Sequence[str]) -> None:
        """The script itself knows what fits: :func:`dst.train.arguments`."""

    def check_metric(self, name: Any) -> None:
        """The script may measure anything."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"metric.name must be a figure of the script, got {shown(name)}.")

    def overrides(self, sweep: str, number: int, chosen: Sequence[str]) -> list[str]:
        """What a trial adds to those of all."""
        return list(chosen)

    def words(self, run: Path, overrides: Sequence[str], started: bool) -> list[str]:
        """What the process of a trial is; one that was stopped starts again."""
        return [sys.executable, str(self.script), *self.fixed, *overrides]

    def environment(self, run: Path) -> Mapping[str, str]:
        """Where the script writes."""
        return {DIRECTORY: str(run.resolve())}


def read(command: Any, program: Any) -> Train | Script:
    """The command of a sweep file.

    Args:
      command: words; W&B's ``${env}``, ``${interpreter}`` and ``${program}`` among them.
      program: of the file: what ``${program}`` stands for.

    Raises:
      ValueError: another form, or a script that is not there.
    """
    words = command if isinstance(command, list) else [command]
    if all(isinstance(word, str) for word in words) and words[-1:] == [ARGUMENTS]:
        known = [x for x in words[:-1] if x not in ("${env}", "/usr/bin/env")]
        known = [str(program) if x == "${program}" and program else x for x in known]
        after = known[known.index("train") + 1 :] if "train" in known else []
        if after:
            return Train(Path(after[0]), _fixed(after[1:]))
        if len(known) > 1 and known[0] in INTERPRETERS:
            if not Path(known[1]).is_file():
                raise ValueError(
                    f"command: expected a training script, found no file {short(known[1])}. Paths "
                    "are those from the directory in which the sweep runs."
                )
            return Script(Path(known[1]), _fixed(known[2:]))
    raise ValueError(
        f"command must read [dst, train, CONFIG, {ARGUMENTS!r}] or [python, SCRIPT, "
        f"{ARGUMENTS!r}], where overrides may stand before the last one, got {shown(words)}."
    )


def vectorisable(command: Train | Script) -> Train:
    """The command, if its trials can share a program.

    Raises:
      ConfigError: they are processes that run a script.
    """
    if isinstance(command, Train):
        return command
    raise configs.ConfigError(
        f"the vectorised engine needs trials of `dst train`, found the script {command.script}. "
        "Use --engine processes."
    )


def _fixed(words: Sequence[str]) -> tuple[str, ...]:
    if options := [x for x in words if x.startswith("-")]:
        raise ValueError(
            f"command must have no option such as {shown(options[0])}: directories are those of "
            "the sweep."
        )
    for text in words:
        plain_data.override(text)
    return tuple(words)
