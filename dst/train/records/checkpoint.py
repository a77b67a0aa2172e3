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

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dst.core.files import write_json
from dst.core.text import short, shown
from dst.core.typing import PyTree
from dst.train.distributed import processes

_MANIFEST, _POSITION = "manifest.json", "position.json"
_STATE, _SUM = "state", "sum"
_NAME = re.compile(r"[0-9]{9,}")  # of a checkpoint: its step
_LOGGERS = ("absl", "asyncio")


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or does not fit what it is to be read into."""


class Writer:
    """Writes checkpoints in the background, one at a time, and removes those no longer needed.

    If a checkpoint cannot be written, for example on a full disk, a warning says so. Those before
    it stay, and training continues to the next one. Use as a context manager; leaving it waits.

    Args:
      where: the directory of all checkpoints.
      keep: how many of the newest stay.
      keep_best: how many stay beside them for their score.
    """

    def __init__(self, where: Path, keep: int, keep_best: int = 0):
        self.where, self._keep, self._keep_best = where.absolute(), keep, keep_best
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._failure: str | None = None
        self._size = 0  # bytes of the last one that was written
        self._saves = 0

    def __enter__(self) -> Writer:
        # Orbax logs a failure many times, with tracebacks; `_failed` prints one sentence.
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_not_from_orbax)
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._thread.shutdown()
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(_not_from_orbax)

    def save(
        self, step: int, state: PyTree, position: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Copies a state from the devices and returns; the copy is written in the background.

        The caller may donate the state to its next step. If the save before this one is still
        being written, this one waits for it.

        Args:
          step: optimizer updates done.
          state: pytree of arrays.
          position: where the input stands, in types of JSON.
          score: how good the state is, larger is better; None: it was not evaluated, and it stays
            only while it is among the newest.
        """
        self.wait()
        self._failure = None
        part = self.where / f"{step:09d}.part"
        try:
            if processes.first():
                shutil.rmtree(part, ignore_errors=True)
            processes.decided(self._check_space)
            # A new checkpointer for every save: it would raise a failure again at the next one.
            # Processes wait for each other's files under a name, which is new for every save.
            self._saves += 1
            options = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=f"{self._saves}")
            orbax = ocp.StandardCheckpointer(multiprocessing_options=options)
            orbax.save(part / _STATE, state)
        except Exception as error:
            self._failed(step, error)
        else:
            manifest = {"step": step, "score": score, "leaves": _leaves(state)}
            self._pending = self._thread.submit(self._finish, orbax, position, manifest)

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

    def _check_space(self) -> None:
        """Raises OSError if the disk has no space for another checkpoint like the last one."""
        if self._size and (free := shutil.disk_usage(self.where).free) < self._size:
            raise OSError(f"no space left: {self._size} bytes needed, {free} free")

    def _finish(
        self, orbax: ocp.StandardCheckpointer, position: Mapping[str, Any], manifest: dict[str, Any]
    ) -> None:
        step = manifest["step"]
        target = directory(self.where, step)
        part = target.with_name(f"{target.name}.part")
        try:
            orbax.close()  # waits, also for the files of other processes
            if not processes.first():
                return
            write_json(part / _POSITION, position)
            write_json(part / _MANIFEST, _signed(manifest | {"sha256": _sums(part)}))
            _flush(*part.rglob("*"), part)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
            _flush(self.where)
            self._size = sum(512 * p.stat().st_blocks for p in target.rglob("*"))
            self._clean(step)
        except Exception as error:
            self._failed(step, error)

    # TensorStore, Orbax and the system raise different things for one full disk, hence `Exception`.
    def _failed(self, step: int, error: Exception) -> None:
        if processes.first():
            shutil.rmtree(self.where / f"{step:09d}.part", ignore_errors=True)
        there = [n for n in steps(self.where) if n < step]
        newest = f"the newest is that of step {there[-1]}" if there else "there is none before it"
        reason = str(error).partition("\n")[0]
        self._failure = f"the checkpoint of step {step} was not written, {newest}: {reason}"
        print(f"warning: {self._failure}", file=sys.stderr, flush=True)

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
        recorded = _manifest(where, step)["sha256"]
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error})"
    sums = _sums(directory(where, step))
    wrong = [n for n in sorted({*recorded, *sums}) if recorded.get(n) != sums.get(n)]
    return f"{wrong[0]} is not what was written" if wrong else None


def newest_whole(where: Path) -> int | None:
    """The step of the newest checkpoint that is not damaged; newer ones are reported."""
    return processes.decided(lambda: _newest_whole(where))


def _newest_whole(where: Path) -> int | None:
    if strangers := _strangers(where):
        print(f"{where}: ignored as no checkpoints: {', '.join(map(short, strangers[:5]))}")
    for step in reversed(steps(where)):
        wrong = damage(where, step)
        if wrong is None:
            return step
        print(f"the checkpoint of step {step} is damaged ({wrong}); trying the one before it")
    return None


def restore(where: Path, step: int, like: PyTree) -> PyTree:
    """The state saved at a step.

    Args:
      where: the directory of all checkpoints.
      step: of the checkpoint; check it with :func:`damage` first.
      like: a state, of which structure, shapes, dtypes and shardings are used.

    Raises:
      CheckpointError: the state that was saved has another structure or other shapes.
    """
    for name, (expected, found) in differing(where, step, like).items():
        raise CheckpointError(
            f"the checkpoint of step {step} in {where} is of another network, optimizer or method: "
            f"{name} must be {expected}, found {found}. Resume with the config that it was saved "
            "with."
        )
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(directory(where.absolute(), step) / _STATE, target)


def differing(where: Path, step: int, like: PyTree) -> dict[str, tuple[str, str]]:
    """The leaves of a saved state that do not fit: shape and type expected and found, by name."""
    saved, expected = _manifest(where, step)["leaves"], _leaves(like)
    return {
        name: (expected.get(name, "absent"), saved.get(name, "none"))
        for name in sorted({*saved, *expected})
        if saved.get(name) != expected.get(name)
    }


def position(where: Path, step: int) -> dict[str, Any]:
    """Where the input stood when the checkpoint of a step was saved."""
    return json.loads((directory(where, step) / _POSITION).read_text(encoding="utf-8"))


def _manifest(where: Path, step: int) -> dict[str, Any]:
    """The manifest of a step.

    Raises:
      OSError: there is none.
      ValueError: it is not what was written, or that of another step.
    """
    data = json.loads((directory(where, step) / _MANIFEST).read_text(encoding="utf-8"))
    keys = {"step", "score", "leaves", "sha256"}
    if not isinstance(data, dict) or data.keys() - {_SUM} != keys:
        raise ValueError("it has other keys")
    # Checkpoints of earlier versions have no sum.
    if _SUM in data and _signed({k: data[k] for k in data if k != _SUM}) != data:
        raise ValueError("it is not what was written")
    if data["step"] != step:
        raise ValueError(f"it is that of step {shown(data['step'])}")
    return data


def _signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own SHA-256."""
    text = json.dumps(manifest, sort_keys=True)
    return {**manifest, _SUM: hashlib.sha256(text.encode()).hexdigest()}


def _ranked(where: Path, past: Sequence[int]) -> list[int]:
    """Those of these steps whose checkpoints have a score, the best first."""
    scores = {n: s for n in past if (s := _score(where, n)) is not None}
    return sorted(scores, key=lambda n: (scores[n], n), reverse=True)


def _score(where: Path, step: int) -> float | None:
    try:
        score = _manifest(where, step)["score"]
    except (OSError, ValueError):  # damaged: no reason to keep it
        return None
    return score if isinstance(score, int | float) else None


def _leaves(state: PyTree) -> dict[str, str]:
    """Shape and type of every leaf."""
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{x.dtype} {list(x.shape)}" for path, x in leaves}


def _sums(path: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by its name inside the checkpoint."""
    sums = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p != path / _MANIFEST):
        with file.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        sums[file.relative_to(path).as_posix()] = digest
    return sums


def _flush(*paths: Path) -> None:
    """Flushes files and directories to disk, so that a loss of power costs no checkpoint."""
    for path in paths:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    never_asked_for = "exception was never retrieved" in record.getMessage()
    return f"{os.sep}orbax{os.sep}" not in record.pathname and not never_asked_for
