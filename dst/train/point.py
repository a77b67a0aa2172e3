"""Where a run stands: at its start, or at its newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dst
from dst.core.typing import PyTree
from dst.train import setup
from dst.train.distributed import processes
from dst.train.records import checkpoint, run_dir
from dst.train.setup import Setup
from dst.train.state import TrainState


@dataclass
class Point:
    """Where a run stands.

    Attributes:
      step: optimizer updates done.
      state: after them. Nothing else may hold it: the next step donates its buffers.
      drawn: batches drawn so far; more than ``step`` after a rollback, which skips batches.
    """

    step: int
    state: TrainState
    drawn: int

    @property
    def position(self) -> dict[str, int]:
        """Where the input stands, for a checkpoint."""
        return {"drawn": self.drawn}


def save_arrays(path: Path, save: Callable[[Path, PyTree], None], arrays: PyTree) -> None:
    """Writes a file of arrays. Of several processes, the first one writes it."""
    whole = processes.gathered(arrays)
    processes.decided(lambda: save(path, whole))


def first(pieces: Setup, where: Path) -> Point:
    """The start of a new run, with its first files."""
    start, state = pieces.config.start.step, pieces.begin()
    save_arrays(where / run_dir.MASKS_INITIAL, dst.save_masks, dst.masks(state.opt_state))
    if start in pieces.config.train.snapshot_steps():
        save_arrays(where / run_dir.weights(start), dst.save_weights, state.params)
    return Point(start, state, drawn=start)


def newest(pieces: Setup, where: Path) -> Point | None:
    """Where the newest undamaged checkpoint stands; None where there is none."""
    checkpoints, steps = where / run_dir.CHECKPOINTS, pieces.config.train.steps
    step = checkpoint.newest_whole(checkpoints)
    if step is None:
        return None
    if step > steps:
        raise setup.SetupError(
            f"train.steps must be at least {step}, the steps done so far, got {steps}."
        )
    print(f"resuming at step {step} of {steps}")
    state = checkpoint.restore(checkpoints, step, pieces.begin())
    return Point(step, state, checkpoint.position(checkpoints, step)["drawn"])
