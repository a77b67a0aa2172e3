"""What W&B keeps of a run as versioned files: masks, a checkpoint, the report."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dst.train.config.run import Config
from dst.train.records import checkpoint, run_dir, wandb_agent


class _Content(NamedTuple):
    """What an artifact holds.

    Attributes:
      type: of the artifact.
      path: of a file, or of a directory.
      facts: shown with it.
      aliases: by which it is found, beside ``latest`` and its version.
    """

    type: str
    path: Path
    facts: dict[str, int]
    aliases: list[str]


def _masks(config: Config, where: Path) -> _Content:
    return _Content("masks", where / run_dir.MASKS_FINAL, {"step": config.train.steps}, [])


def _checkpoint(config: Config, where: Path) -> _Content:
    folder = where / run_dir.CHECKPOINTS
    # Without `keep_best`, a better one may have been removed.
    best = checkpoint.best(folder) if config.train.keep_best else None
    step = checkpoint.steps(folder)[-1] if best is None else best
    aliases = [] if best is None else ["best"]
    return _Content("model", checkpoint.directory(folder, step), {"step": step}, aliases)


def _report(config: Config, where: Path) -> _Content:
    return _Content("report", where / run_dir.REPORT, {"step": config.train.steps}, [])


_CONTENTS: dict[str, Callable[[Config, Path], _Content]] = {
    "masks": _masks,
    "checkpoint": _checkpoint,
    "report": _report,
}


def log(run: Any, config: Config, where: Path) -> None:
    """Logs the artifacts that ``wandb.artifacts`` lists; a warning names those without a file.

    They are named after the run and what they hold: ``digits-rigl-masks``.

    Args:
      run: of the W&B client.
      config: of the run.
      where: its directory.
    """
    import wandb

    name = wandb_agent.own_name(config.name)
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)  # the client takes no others
    for kind in dict.fromkeys(config.wandb.artifacts):
        content = _CONTENTS[kind](config, where.absolute())  # `wandb sync` may run elsewhere
        if not content.path.exists():
            text = f"warning: Weights & Biases: no artifact {kind!r}: {content.path} does not exist"
            print(text, file=sys.stderr, flush=True)
            continue
        # Names have at most 128 characters.
        artifact = wandb.Artifact(
            f"{plain[:110]}-{kind}", content.type, metadata={"run": name, **content.facts}
        )
        if content.path.is_dir():  # not copied: it is large, and nothing writes to it
            artifact.add_dir(str(content.path), policy="immutable", skip_cache=True)
        else:
            artifact.add_file(str(content.path))
        run.log_artifact(artifact, aliases=content.aliases)
