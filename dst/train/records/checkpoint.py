"""Checkpoints: Orbax's files, and a manifest of their SHA-256 sums that is written last.

Orbax writes atomically but does not notice bits that flip in its files later. A checkpoint whose
files differ from its manifest is damaged, and the one before it is used. A checkpoint is a
directory that is renamed into place when everything in it is on disk: it is whole, or not there.

Of several processes each writes its own shards, and the first one the rest.

Orbax's ``CheckpointManager`` (0.12.8) is not used for retention. It deletes old checkpoints before
the rename of the new one is flushed, and it writes no more once an old file of metrics is damaged.
The tests of this module show both.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dst.core.files import check_space, flush, write_json
from dst.core.text import short
from dst.core.typing import PyTree
from dst.train.distributed import processes
from dst.train.records import manifest
from dst.train.records.quiet import Quiet, first_line

_POSITION, _STATE = "position.json", "state"
# Otherwise threads wait ten minutes for a directory that could not be made.
_HERE = ocp.options.AsyncOptions(create_directories_asynchronously=False)
_one_at_a_time = threading.Lock()
_NAME = re.compile(r"[0-9]{9,}")  # of a checkpoint: its step


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or does not fit what it is to be read into.

    Attributes:
      leaves: of the state that do not fit.
    """

    def __init__(self, text: str, leaves: Iterable[str] = ()):
        super().__init__(text)
        self.leaves = tuple(leaves)


class Writer:
    """Writes checkpoints in the background, one at a time, and removes those no longer needed.

    If a checkpoint cannot be written, for example on a full disk, a warning says so. Those before
    it stay, and training continues to the next one. Use as a context manager; leaving it waits.

    Args:
      where: the directory of all checkpoints.
      keep: how many of the newest stay.
      keep_best: how many stay beside them for their score.
      donated: whether the caller donates a state that it has saved to its next step. If it does
        not, several writers of a process may save at the same time, and none waits for another.
    """

    def __init__(self, where: Path, keep: int, keep_best: int = 0, donated: bool = True):
        self.where, self._keep, self._keep_best = where.absolute(), keep, keep_best
        self._donated = donated
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._failure: str | None = None
        self._saves = 0
        self._warnings = sys.stderr
        self._quiet = Quiet()

    def __enter__(self) -> Writer:
        self._quiet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._thread.shutdown()
        self._quiet.__exit__()

    def save(
        self, step: int, state: PyTree, position: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Writes a state in the background. If the caller donates it to its next step, it is copied
        from the devices before this returns.

        If the save before this one is still being written, this one waits for it.

        Args:
          step: optimizer updates done.
          state: pytree of arrays.
          position: where the input stands, in types of JSON.
          score: how good the state is, larger is better; None: it was not evaluated, and it stays
            only while it is among the newest.
        """
        self.wait()
        self._failure, self._warnings = None, sys.stderr
        about = (position, step, score, manifest.leaves(state))
        if self._donated:
            orbax = self._begin(step, state)
            self._pending = orbax and self._thread.submit(self._finish, orbax, *about)
        else:
            self._pending = self._thread.submit(self._write, state, *about)

    def _write(self, state: PyTree, position: Mapping[str, Any], step: int, *about: Any) -> None:
        """A whole checkpoint. Those of other writers wait: Orbax writes one per process."""
        with _one_at_a_time:
            if (orbax := self._begin(step, state)) is not None:
                self._finish(orbax, position, step, *about)

    def _begin(self, step: int, state: PyTree) -> ocp.StandardCheckpointer | None:
        """Copies a state from the devices. None: it cannot be written."""
        try:
            processes.decided(self._prepare)
            # A new checkpointer for every save: it would raise a failure again at the next one.
            # Processes wait for each other's files under a name, which is new for every save.
            self._saves += 1
            prefix = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=f"{self._saves}")
            orbax = ocp.StandardCheckpointer(async_options=_HERE, multiprocessing_options=prefix)
            orbax.save(self.where / f"{step:09d}.part" / _STATE, state)
        except Exception as error:
            self._failed(step, error)
            return None
        return orbax

    def wait(self) -> None:
        """Returns when nothing is being written."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def finish(self) -> None:
        """Waits, and raises CheckpointError unless the last checkpoint was written."""
        self.wait()
        if failure := processes.decided(lambda: self._failure):
            raise CheckpointError(failure)

    def _prepare(self) -> None:
        for left_over in self.where.glob("*.part"):  # of saves that failed or were killed
            shutil.rmtree(left_over, ignore_errors=True)
        if there := steps(self.where):
            check_space(directory(self.where, there[-1]))

    def _finish(
        self,
        orbax: ocp.StandardCheckpointer,
        position: Mapping[str, Any],
        step: int,
        score: float | None,
        leaves: Mapping[str, str],
    ) -> None:
        target = directory(self.where, step)
        part = target.with_name(f"{target.name}.part")
        try:
            orbax.close()  # waits, also for the files of other processes
            if not processes.first():
                return
            write_json(part / _POSITION, position)
            manifest.write(part, step, score, leaves)
            flush(*part.rglob("*"), part)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
            flush(self.where)
            self._clean(step)
        except Exception as error:
            self._failed(step, error)

    # TensorStore, Orbax and the system raise different things for one full disk, hence `Exception`.
    def _failed(self, step: int, error: Exception) -> None:
        if processes.first():
            shutil.rmtree(self.where / f"{step:09d}.part", ignore_errors=True)
        there = [n for n in steps(self.where) if n < step]
        newest = f"the newest is that of step {there[-1]}" if there else "there is none before it"
        reason, self._quiet.failed = first_line(error), True
        self._failure = f"the checkpoint of step {step} was not written, {newest}: {reason}"
        print(f"warning: {self._failure}", file=self._warnings, flush=True)

    def _clean(self, step: int) -> None:
        # Later ones are damaged: otherwise this run would have resumed from them.
        saved = steps(self.where)
        past = [n for n in saved if n <= step]
        needed = {*past[-self._keep :], *_ranked(self.where, past)[: self._keep_best]}
        for n in saved:
            if n not in needed:
                shutil.rmtree(directory(self.where, n))


def steps(where: Path) -> list[int]:
    """Steps that have a checkpoint, damaged or not, in ascending order."""
    paths = where.iterdir() if where.is_dir() else []
    return sorted(int(p.name) for p in paths if _NAME.fullmatch(p.name) and p.is_dir())


def _strangers(where: Path) -> list[str]:
    """Names in the directory that no checkpoint has."""
    names = sorted(p.name for p in where.iterdir()) if where.is_dir() else []
    return [n for n in names if not _NAME.fullmatch(n.removesuffix(".part"))]


def directory(where: Path, step: int) -> Path:
    """The directory of the checkpoint of a step."""
    return where / f"{step:09d}"


def best(where: Path) -> int | None:
    """The step of the checkpoint with the best score, the newest of equal ones; None: none has one.

    Args:
      where: the directory of all checkpoints.
    """
    ranked = _ranked(where, steps(where))
    return ranked[0] if ranked else None


def damage(where: Path, step: int) -> str | None:
    """What is wrong with the checkpoint of a step; None if it is not damaged."""
    try:
        recorded = manifest.read(directory(where, step), step)["sha256"]
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error})"
    sums = manifest.sums(directory(where, step))
    wrong = [n for n in sorted({*recorded, *sums}) if recorded.get(n) != sums.get(n)]
    if wrong:
        return f"{wrong[0]} is not what was written"
    try:
        position(where, step)
    except (OSError, ValueError) as error:
        return f"{_POSITION} cannot be read ({error})"
    return None


def newest_whole(where: Path, before: float = math.inf) -> int | None:
    """The step of the newest checkpoint that is not damaged; newer ones are reported.

    Args:
      where: the directory of all checkpoints.
      before: only those of steps before this one.
    """
    return processes.decided(lambda: _newest_whole(where, before))


def _newest_whole(where: Path, before: float) -> int | None:
    if before == math.inf and (strangers := _strangers(where)):
        print(f"{where}: ignored as no checkpoints: {', '.join(map(short, strangers[:5]))}")
    for step in reversed([n for n in steps(where) if n < before]):
        wrong = damage(where, step)
        if wrong is None:
            return step
        left_out(step, wrong)
    return None


def left_out(step: int, why: str) -> None:
    """Reports a checkpoint that is not used, and why."""
    print(f"the checkpoint of step {step} is damaged ({why}); trying the one before it")


def restore(where: Path, step: int, like: PyTree) -> PyTree:
    """The state saved at a step.

    Args:
      where: the directory of all checkpoints.
      step: of the checkpoint; check it with :func:`damage` first.
      like: a state, of which structure, shapes, dtypes and shardings are used.

    Raises:
      CheckpointError: the state that was saved has another structure, other shapes or dtypes.
    """
    check_fit(where, step, like)
    return _read(where, step, like)


def check_fit(where: Path, step: int, like: PyTree) -> None:
    """Raises CheckpointError unless a saved state has structure, shapes and dtypes of ``like``."""
    if misfits := differing(where, step, like):
        raise CheckpointError(
            f"the checkpoint of step {step} in {where} is of another network, optimizer or method: "
            f"{manifest.first(misfits)}. Resume with the config that it was saved with.",
            misfits,
        )


def _read(where: Path, step: int, like: PyTree) -> PyTree:
    path = directory(where.absolute(), step) / _STATE
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    with ocp.StandardCheckpointer() as checkpointer:
        # Orbax casts to another dtype and leaves arrays out, and says neither.
        if (stored := checkpointer.metadata(path).item_metadata) is None:
            raise CheckpointError("its state cannot be read")
        if misfits := manifest.unequal(_plain(like), _plain(stored.tree)):
            raise CheckpointError(
                f"its files hold another state: {manifest.first(misfits)}", misfits
            )
        return checkpointer.restore(path, target)


def differing(where: Path, step: int, like: PyTree) -> manifest.Misfits:
    """The leaves of a saved state that do not fit: type and shape expected and found, by name."""
    saved = manifest.read(directory(where, step), step)["leaves"]
    return manifest.unequal(manifest.leaves(like), saved)


def _plain(tree: PyTree) -> dict[str, str]:
    """As manifests say it of what Orbax stores: lists for tuples, numbers for random keys."""

    def numbers(x: Any) -> Any:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.eval_shape(jax.random.key_data, x) if is_key else x

    return manifest.leaves(jax.tree.map(numbers, tree), simple=True, separator="/")


def position(where: Path, step: int) -> dict[str, Any]:
    """Where the input stood when the checkpoint of a step was saved.

    Raises:
      OSError: there is no such file.
      ValueError: it is no JSON object.
    """
    data = json.loads((directory(where, step) / _POSITION).read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    return data


def _ranked(where: Path, past: Sequence[int]) -> list[int]:
    """Those of these steps whose checkpoints have a score, the best first."""
    scores = {n: s for n in past if (s := _score(where, n)) is not None}
    return sorted(scores, key=lambda n: (scores[n], n), reverse=True)


def _score(where: Path, step: int) -> float | None:
    try:
        score = manifest.read(directory(where, step), step)["score"]
    except (OSError, ValueError):  # damaged: no reason to keep it
        return None
    return score if isinstance(score, int | float) else None
