"""Where a run stands: at its start, or at a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

import dst
from dst.core.typing import Array, PyTree
from dst.train import setup
from dst.train.config.run import enclosed, to_dict
from dst.train.distributed import processes
from dst.train.records import checkpoint, fallback, run_dir, summary
from dst.train.setup import Setup
from dst.train.state import TrainState
from dst.train.work import Alone, Held


@dataclass
class Point:
    """Where a run stands.

    Attributes:
      step: optimizer updates done.
      held: the training state after them.
      drawn: batches drawn so far; more than ``step`` after a rollback, which skips batches.
      config: that the run is trained with, as plain data.
    """

    step: int
    held: Held
    drawn: int
    config: Mapping[str, Any]

    @property
    def state(self) -> TrainState:
        """The training state, to look at; see :class:`dst.train.work.Held`."""
        return self.held.state

    @property
    def position(self) -> dict[str, Any]:
        """Where the input stands and what the run is trained with, for a checkpoint."""
        return {"drawn": self.drawn, "config": self.config}


def save_arrays(path: Path, save: Callable[[Path, PyTree], None], arrays: PyTree) -> None:
    """Writes a file of arrays. Of several processes, the first one writes it."""
    whole = processes.gathered(arrays)
    processes.decided(lambda: save(path, whole))


def first(pieces: Setup, where: Path) -> Point:
    """The start of a new run, with its first files."""
    start, state = pieces.config.start.step, pieces.begin()
    save_arrays(where / run_dir.MASKS_INITIAL, dst.save_masks, dst.masks(state.opt_state))
    if start in pieces.config.train.snapshot_steps():
        save_arrays(where / run_dir.weights(start), dst.save_weights, state.weights)
    return Point(start, Alone(state), start, to_dict(enclosed(pieces.config)[0]))


class Saved(NamedTuple):
    """What a run directory holds of a run that has started.

    Attributes:
      step: of the newest checkpoint that is not damaged; None: there is none.
      config: that it was trained with, as plain data; None: it does not say so.
      figures: of ``summary.json``, where the run has come to its end; None elsewhere.
    """

    step: int | None
    config: Mapping[str, Any] | None
    figures: dict[str, Any] | None


def newest(where: Path) -> Saved:
    """What a run can be resumed from."""
    checkpoints = where / run_dir.CHECKPOINTS
    step = checkpoint.newest_whole(checkpoints)
    if step is None:
        return Saved(None, None, None)
    config = trained(where, step)
    ends = None if config is None else config.get("train", {}).get("steps")
    if ends != step:
        return Saved(step, config, None)
    return Saved(step, config, processes.decided(lambda: summary.read(where / run_dir.SUMMARY)))


def trained(where: Path, step: int) -> Mapping[str, Any] | None:
    """The config that a checkpoint was trained with, as plain data; None: it does not say so."""
    return checkpoint.position(where / run_dir.CHECKPOINTS, step).get("config")


def restored(pieces: Setup, where: Path, step: int) -> Point:
    """Where a checkpoint stands, or the one before it that can be restored.

    Args:
      pieces: of the run.
      where: its directory.
      step: of the newest checkpoint that is not damaged.

    Raises:
      SetupError: a config that ends before it, or that has another update schedule.
      CheckpointError: no checkpoint can be restored.
    """
    checkpoints, steps = where / run_dir.CHECKPOINTS, pieces.config.train.steps
    if step > steps:
        raise setup.SetupError(
            f"train.steps must be at least {step}, the steps done so far, got {steps}."
        )
    begin, start = pieces.begin(), pieces.config.start.step

    def wrong(at: int, state: TrainState) -> str | None:
        counted = int(state.opt_state.count) + start
        if counted != at:
            return f"its files hold the state of step {counted}"
        if not isinstance(checkpoint.position(checkpoints, at).get("drawn"), int):
            return "its position is none of a run"
        return None

    try:
        step, state = fallback.restore(checkpoints, step, begin, wrong, pieces.other_form)
    except checkpoint.CheckpointError as error:
        if error.leaves and all(".hyper." in name for name in error.leaves):
            raise setup.SetupError(_OTHER_SCHEDULE) from error
        raise
    same = jax.tree.map(_equal, begin.opt_state.hyper, state.opt_state.hyper)
    if not all(jax.tree.leaves(same)):
        raise setup.SetupError(_OTHER_SCHEDULE)
    print(f"resuming at step {step} of {steps}")
    drawn = checkpoint.position(checkpoints, step)["drawn"]
    return Point(step, Alone(state), drawn, to_dict(enclosed(pieces.config)[0]))


_OTHER_SCHEDULE = (
    "the update schedule would be another one, which a run that has started cannot have. Durations "
    "in percent move with train.steps. Keep train.steps. Train a new run with other ones."
)


def _equal(a: Array, b: Array) -> bool:
    return bool((a == b).all())
