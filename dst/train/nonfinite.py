"""Losses and weights that are no finite numbers: seen, and answered as the config says.

``stop`` ends the run. ``skip`` leaves such updates out, inside the compiled step; see
:func:`dst.train.step.make`. ``rollback`` goes back to the newest checkpoint, which is good because
losses and weights are checked before one is written, and on with the batches after the bad one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dst.train.distributed import processes as hosts
from dst.train.records import checkpoint
from dst.train.state import TrainState
from dst.train.step import Metrics, finite

ROLLBACKS = 3  # from one checkpoint, without reaching the next
SKIPS = 20  # in a row: what does not learn any more need not go on


class Diverged(RuntimeError):
    """A loss or a weight that is no finite number.

    Attributes:
      step: at which it was found.
    """

    def __init__(self, step: int, text: str):
        super().__init__(text)
        self.step = step


class Watch:
    """Looks at losses now and then, so that devices are not waited for at every step.

    Args:
      policy: ``train.on_nonfinite``.
      state: that the run begins or goes on with.
    """

    def __init__(self, policy: str, state: TrainState):
        self._skips = policy == "skip"
        self._losses: list[tuple[range, Any]] = []  # of the steps since they were last looked at
        self._skipped: Any = int(state.skipped)  # the array is given away with its state
        self._before, self._in_a_row = self._skipped, 0

    def took(self, steps: range, losses: Any, metrics: Metrics) -> None:
        """Steps were taken: their losses, as one number or ``[len(steps) or more]``, and the
        metrics of the last one."""
        self._losses.append((steps, losses))
        self._skipped = metrics.get("skipped", self._skipped)

    def look(self, tested: Mapping[int, Any] | None = None) -> None:
        """Raises Diverged at the first training loss, or loss on the test set, by step, that is not
        finite; and under ``skip`` when nothing but skips is left."""
        taken = [steps for steps, _ in self._losses]
        found, skipped = jax.device_get(([x for _, x in self._losses], self._skipped))
        losses: dict[int, Any] = {}
        for steps, values in zip(taken, found, strict=True):
            losses |= zip(steps, np.atleast_1d(values), strict=False)
        if self._skips:
            self._count(int(skipped), list(losses))
            losses = {}
        for step, loss in {**losses, **(tested or {})}.items():
            if not math.isfinite(loss):
                raise Diverged(step, f"the loss is {loss} at step {step}.")
        self._losses.clear()

    def look_at_weights(self, step: int, state: TrainState) -> None:
        """Raises Diverged unless all weights are finite."""
        if not finite((state.params, state.variables)):
            raise Diverged(step, f"weights are not finite after step {step}.")

    def _count(self, skipped: int, steps: list[int]) -> None:
        if not steps:
            return
        new, self._before = skipped - self._before, skipped
        if not new:
            self._in_a_row = 0
            return
        if hosts.first():
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
    """Decides, after every divergence, whether to go back and where to.

    Args:
      policy: ``train.on_nonfinite``.
      saved: the directory of all checkpoints.
    """

    def __init__(self, policy: str, saved: Path):
        self._allowed, self._saved = policy == "rollback", saved
        self._step, self._times = -1, 0

    def to(self, error: Diverged) -> int:
        """The step of the checkpoint to go back to. No checkpoint may be in the making.

        Raises:
          Diverged: the config says to stop, no checkpoint is whole, or this is the fourth time at
            the same one.
        """
        step = checkpoint.newest_whole(self._saved)
        if step is None:
            raise Diverged(error.step, f"{error} There is no checkpoint. {_ADVICE}") from error
        self._times = self._times + 1 if step == self._step else 1
        self._step = step
        if not self._allowed or self._times > ROLLBACKS:
            tried = f" {ROLLBACKS} rollbacks to it have not helped." if self._allowed else ""
            raise Diverged(
                error.step,
                f"{error} The last good checkpoint is that of step {step} in {self._saved}.{tried} "
                f"{_ADVICE}",
            ) from error
        print(
            f"{error} Rolling back to step {step} ({self._times} of {ROLLBACKS}), and on with the "
            f"batches after that of step {error.step}.",
            flush=True,
        )
        return step


_ADVICE = "Lower optimizer.learning_rate, or set optimizer.clip."
