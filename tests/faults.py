"""What tests of faults share: real faults, and processes to which they happen."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from dst.train import setup
from dst.train.data import stream
from dst.train.records import checkpoint, run_dir
from dst.train.records.json_lines import read
from tests.training import ROOT


def last_step(run: Path) -> int:
    """The step of the last record; -1 if there is none.

    Only the end of the file is read: tests ask many times a second, on the cores that train.
    """
    try:
        with (run / run_dir.METRICS).open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - 16_384)
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return -1
    whole = lines[1 if start else 0 : -1]  # the first may have begun before, the last is in writing
    return json.loads(whole[-1])["step"] if whole else -1


def records(run: Path) -> list[dict[str, Any]]:
    """The records of a run without their timings."""
    lines = read(run / run_dir.METRICS)
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines]


def row(injected: str, observed: str, lost: str) -> None:
    """One row of the fault table; `make evidence` shows what passing tests print."""
    observed = " ".join(line.strip() for line in observed.strip().splitlines() if line.strip())
    print(f"| {injected} | {observed} | {lost} |")


class _Batches(stream.Batches):
    """A stream with actions before its batches, counted from 1; the ``bad`` ones hold a NaN."""

    def __init__(self, inner: Any, count: int, actions: dict[int, Callable], bad: Sequence[int]):
        self._inner, self._count, self._actions, self._bad = inner, count, actions, bad

    def __next__(self) -> tuple[Any, Any]:
        (bad,) = self._drawn(1)
        inputs, labels = next(self._inner)
        return (jnp.asarray(inputs).at[0, 0].set(np.nan) if bad else inputs), labels

    def take(self, n: int) -> tuple[Any, Any]:
        bad = [i for i, is_bad in enumerate(self._drawn(n)) if is_bad]
        inputs, labels = self._inner.take(n)
        return (jnp.asarray(inputs).at[np.array(bad), 0, 0].set(np.nan) if bad else inputs), labels

    def close(self) -> None:
        self._inner.close()

    def _drawn(self, n: int) -> list[bool]:
        drawn = range(self._count + 1, self._count + 1 + n)
        self._count += n
        for i in drawn:
            self._actions.get(i, lambda: None)()
        return [i in self._bad for i in drawn]


@contextmanager
def before_step(
    monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], Any]], bad: Sequence[int] = ()
) -> Iterator[None]:
    """Something happens before a step; the batches ``bad`` hold a NaN among their inputs.

    Steps are counted by the batches drawn, from 1.
    """
    make = setup.make

    def patched_make(config):
        pieces = make(config)
        return pieces._replace(
            batches=lambda count: _Batches(pieces.batches(count), count, actions, bad)
        )

    with monkeypatch.context() as patched:
        patched.setattr(setup, "make", patched_make)
        yield


@contextmanager
def signalled(run: Path, step: int, number: int) -> Iterator[None]:
    """This process gets a signal once the run has logged a step."""

    def watch() -> None:
        while last_step(run) < step:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join()


@contextmanager
def mounted(path: Path, size: str = "4m", inodes: int = 500) -> Iterator[Path]:
    """A small file system of its own; tests skip where mounting is not permitted.

    Args:
      path: of the directory to be made.
      size: in bytes, as ``mount`` reads it.
      inodes: how many files and directories fit, the first directory included.
    """
    path.mkdir()
    limits = f"size={size},nr_inodes={inodes}"
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", limits, "tmpfs", str(path)], capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {result.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


BALLAST = "ballast"
LIMITS = ("bytes", "inodes")


def fill(path: Path, limit: str = "bytes") -> None:
    """Fills the file system of ``path`` up to one of its ``LIMITS``."""
    ballast = path / BALLAST
    try:
        ballast.mkdir(exist_ok=True)
        if limit == "inodes":
            for i in itertools.count(len(list(ballast.iterdir()))):
                (ballast / str(i)).touch()
        with (ballast / "bytes").open("ab", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    except OSError as error:
        assert error.errno == errno.ENOSPC


def free(path: Path) -> None:
    """Undoes :func:`fill`."""
    shutil.rmtree(path / BALLAST)


def settle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that waits until the run in this process neither saves nor deletes."""
    writers: list[checkpoint.Writer] = []
    enter = checkpoint.Writer.__enter__

    def entered(writer: checkpoint.Writer) -> checkpoint.Writer:
        writers.append(writer)
        return enter(writer)

    monkeypatch.setattr(checkpoint.Writer, "__enter__", entered)

    def settled() -> None:
        for writer in writers:
            writer.wait()

    return settled


def remount(path: Path, options: str) -> None:
    """With other options, for example ``ro``."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def dst(*arguments: object, output: int = subprocess.PIPE, **environment: str) -> subprocess.Popen:
    """The command line in a process of its own, on one device, which hears all of SIGNALS."""
    command = [sys.executable, "-W", "error", "-m", "dst.cli", *map(str, arguments)]
    with heard():
        return subprocess.Popen(
            command,
            env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment},
            stdout=output,
            stderr=output,
            text=True,
        )


@contextmanager
def heard() -> Iterator[None]:
    """New processes do not inherit that signals are ignored, as a shell does to what it starts in
    the background."""
    ignored = [n for n in SIGNALS if signal.getsignal(n) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def until(process: subprocess.Popen, run: Path, step: int) -> None:
    """Waits until a run has logged a step."""
    while last_step(run) < step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


class Forked:
    """Processes that start with everything imported, so that hundreds of them take minutes."""

    def __init__(self, cache: Path):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["dst.train.loop", "sklearn.datasets", "sklearn.model_selection", "rich.progress"]
        )

    def start(self, config: Path, overrides: Sequence[str], run: Path) -> Any:
        """A process that trains the run, or resumes it if it has started."""
        process = self._context.Process(target=_train, args=(config, overrides, run))
        process.start()
        return process


def _train(path: Path, overrides: Sequence[str], run: Path) -> None:
    import jax

    from dst.train import loop
    from dst.train.config import run as config

    for name in ("min_compile_time_secs", "min_entry_size_bytes"):
        jax.config.update(f"jax_persistent_cache_{name}", 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if (run / run_dir.CONFIG).exists():
        loop.resume(run)
    else:
        loop.train(config.load(path, overrides), run)


SIGNALS = (signal.SIGTERM, signal.SIGINT)


def proc(process: subprocess.Popen) -> Path:
    """The directory of a process in ``/proc``."""
    return Path("/proc") / str(process.pid)
