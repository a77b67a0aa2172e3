"""Losses and weights that are not finite: how they are detected, and what the config does then.

``stop`` ends the run. ``skip`` leaves such updates out, inside the compiled step; see
:func:`dst.train.step.make`. ``rollback`` returns to the newest checkpoint and continues with the
batches after the bad one. Losses and weights are checked before a checkpoint is written, so that
every checkpoint is finite.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from dst.core.typing import Array, PyTree
from dst.train.distributed import processes
from dst.train.records import checkpoint, fallback
from dst.train.state import TrainState
from dst.train.step import Metrics, finite, kept

ROLLBACKS = 3  # from one checkpoint, without reaching the next
SKIPS = 20  # in a row: the run does not learn any more
_finite = jax.jit(finite)  # one call, instead of several for every array


class Diverged(RuntimeError):
    """A loss or a weight is not finite.

    Attributes:
      step: the step at which this was detected.
    """

    def __init__(self, step: int, text: str):
        super().__init__(text)
        self.step = step


class Watch:
    """Checks losses at intervals, because a check at every step would wait for the devices.

    Args:
      policy: ``train.on_nonfinite``.
      state: with which the run starts or resumes.
    """

    def __init__(self, policy: str, state: TrainState):
        self._skips = policy == "skip"
        self._losses: list[tuple[range, Array]] = []  # of the steps since the last check
        self._skipped: Array | int = int(state.skipped)  # a copy: the step donates the array
        self._before, self._in_a_row = self._skipped, 0

    def add(self, steps: range, losses: Array, metrics: Metrics) -> None:
        """Adds steps to those to be checked.

        Args:
          steps: those just done.
          losses: a scalar, or ``[n]`` with n >= len(steps), of which the first are used.
          metrics: of the last step.
        """
        self._losses.append((steps, losses))
        self._skipped = metrics.get("skipped", self._skipped)

    def check(self, tested: Mapping[int, float | np.float32] | None = None) -> None:
        """Checks all losses since the last check.

        Args:
          tested: losses on the test set, by step; they are checked, too.

        Raises:
          Diverged: at the first loss that is not finite; under ``skip``, after ``SKIPS`` skipped
            updates in a row.
        """
        ranges = [steps for steps, _ in self._losses]
        values_of, skipped = jax.device_get(([x for _, x in self._losses], self._skipped))
        losses: dict[int, float | np.float32] = {}
        for steps, values in zip(ranges, values_of, strict=True):
            losses |= zip(steps, np.atleast_1d(values), strict=False)
        if self._skips:
            self._count(int(skipped), list(losses))
            losses = {}
        for step, loss in {**losses, **(tested or {})}.items():
            if not math.isfinite(loss):
                raise Diverged(step, f"the loss is {loss} at step {step}.")
        self._losses.clear()

    def check_weights(self, step: int, state: TrainState) -> None:
        """Raises Diverged unless all weights are finite, and what the optimizer keeps of them."""
        if not _finite((state.params, state.variables)):
            raise Diverged(step, f"weights are not finite after step {step}.")
        if not _finite((kept(state.opt_state), state.ema)):
            raise Diverged(
                step,
                f"moments, latent weights or averages are not finite after step {step}, although "
                "the weights are.",
            )

    def _count(self, skipped: int, steps: list[int]) -> None:
        if not steps:
            return
        new, self._before = skipped - self._before, skipped
        if not new:
            self._in_a_row = 0
            return
        if processes.first():
            print(
                f"warning: {new} of the {len(steps)} updates until step {steps[-1]} were skipped: "
                "a loss, a gradient or a weight was not finite",
                file=sys.stderr,
                flush=True,
            )
        self._in_a_row = self._in_a_row + new if new == len(steps) else 0
        if self._in_a_row >= SKIPS:
            text = f"the last {self._in_a_row} updates were skipped until step {steps[-1]}."
            raise Diverged(steps[-1], text)


class Rollback:
    """Decides after a divergence whether the run returns to a checkpoint, and to which.

    Args:
      policy: ``train.on_nonfinite``.
      checkpoints: the directory of all checkpoints.
      other: as in :func:`dst.train.records.fallback.restore`.
    """

    def __init__(
        self,
        policy: str,
        checkpoints: Path,
        other: Callable[[], fallback.Form | None] = lambda: None,
    ):
        self._allowed, self._checkpoints = policy == "rollback", checkpoints
        self._other = other
        self._step, self._times = -1, 0

    def to(self, error: Diverged, like: PyTree) -> tuple[int, PyTree]:
        """The checkpoint to return to: its step and its state.

        Call it while no checkpoint is being written.

        Args:
          error: the divergence.
          like: a state, of which structure, shapes, dtypes and shardings are used.

        Raises:
          Diverged: the config says to stop, no checkpoint is undamaged, or ``ROLLBACKS`` rollbacks
            to the same one have not helped.
          CheckpointError: no checkpoint can be restored.
        """
        step = checkpoint.newest_whole(self._checkpoints)
        if step is None:
            raise Diverged(error.step, f"{error} There is no checkpoint. {_ADVICE}") from error
        state = None
        if self._allowed:
            step, state = fallback.restore(self._checkpoints, step, like, other=self._other)
        self._times = self._times + 1 if step == self._step else 1
        self._step = step
        if not self._allowed or self._times > ROLLBACKS:
            tried = f" {ROLLBACKS} rollbacks to it have not helped." if self._allowed else ""
            raise Diverged(
                error.step,
                f"{error} The last good checkpoint is that of step {step} in {self._checkpoints}."
                f"{tried} {_ADVICE}",
            ) from error
        print(
            f"{error} Rolling back to step {step} ({self._times} of {ROLLBACKS}). Training "
            f"continues with the batch after that of step {error.step}.",
            flush=True,
        )
        return step, state


_ADVICE = "Lower optimizer.learning_rate, or set optimizer.clip."
