"""The newest checkpoint that can be restored.

The sums of a checkpoint may be right, and its state cannot be restored all the same: its files are
not what they say, or the libraries that read them fail. It counts as damaged where one before it
can be restored. Where none can, the fault is perhaps in the config, the network or the libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dst.core.typing import PyTree
from dst.train.distributed import processes
from dst.train.records import checkpoint, manifest
from dst.train.records.quiet import Quiet, first_line

Wrong = Callable[[int, PyTree], str | None]


class Form(NamedTuple):
    """How saved states may look.

    Attributes:
      like: a state, of which structure, shapes, dtypes and shardings are used.
      converted: makes of such a state that of the run.
    """

    like: PyTree
    converted: Callable[[PyTree], PyTree] = lambda state: state


def restore(
    where: Path,
    step: int,
    like: PyTree,
    wrong: Wrong = lambda step, state: None,
    other: Callable[[], Form | None] = lambda: None,
) -> tuple[int, PyTree]:
    """The state of a checkpoint, or else of the newest before it: its step, and the state.

    Newer ones, which cannot be restored, are reported.

    Args:
      where: the directory of all checkpoints.
      step: of the newest checkpoint that is not damaged.
      like: a state, of which structure, shapes, dtypes and shardings are used.
      wrong: says what is wrong with the state of a step; None: nothing is. May raise.
      other: gives another form that saved states may have. It is asked where one does not fit.

    Raises:
      CheckpointError: none of them can be restored.
    """
    reasons: dict[int, str] = {}  # by the step of a checkpoint that cannot be restored
    at: int | None = step
    with Quiet() as quiet:
        while at is not None:
            state, reason = _tried(where, at, like, wrong, other)
            if not processes.any_process(reason is not None):
                for newer, why in reasons.items():
                    checkpoint.left_out(newer, why)
                return at, state
            reasons[at] = reason or "another process cannot restore it"
            quiet.failed = True
            at = checkpoint.newest_whole(where, at)
    checkpoint.check_fit(where, step, _form(where, step, like, other).like)
    raise checkpoint.CheckpointError(
        f"the checkpoint of step {step} in {where} cannot be restored, nor can one before it: "
        f"{reasons[step]}. They were left as they are."
    )


def _form(where: Path, step: int, like: PyTree, other: Callable[[], Form | None]) -> Form:
    """The form that a saved state has, or comes nearest to."""
    own = Form(like)
    if not (misfits := checkpoint.differing(where, step, like)) or (form := other()) is None:
        return own
    return form if len(checkpoint.differing(where, step, form.like)) < len(misfits) else own


def _tried(
    where: Path, step: int, like: PyTree, wrong: Wrong, other: Callable[[], Form | None]
) -> tuple[PyTree, str | None]:
    """A state, and what is wrong with it."""
    try:
        form = _form(where, step, like, other)
        if misfits := checkpoint.differing(where, step, form.like):
            return None, manifest.first(misfits)
        state = form.converted(checkpoint.restore(where, step, form.like))
        return state, wrong(step, state)
    except Exception as error:  # Orbax, TensorStore and the system raise different things
        return None, first_line(error)
