"""Several processes as one run: they join, agree, and the first one writes.

Every process runs the same program on its own devices and its own part of each batch. The first
process alone handles the run directory, its lock, the records, the terminal and the report. Its
results and errors reach the others through the coordination service of ``jax.distributed``, which
asks nobody who they are. So they are JSON: whoever writes there cannot make a process run code.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from dst.core import checks
from dst.core.typing import PyTree

T = TypeVar("T")


@dataclass(frozen=True)
class Hosts:
    """Several processes as one run. Addresses belong to one launch and are not saved with the run.

    Attributes:
      coordinator: where the first process listens, `host:port`; auto: JAX asks SLURM, Kubernetes,
        Cloud TPU or Open MPI; null: one process.
      processes: how many there are; needs an address.
      process: which of them this one is, from 0; needs an address.
      heartbeat: seconds without a heartbeat after which a process counts as dead, and JAX ends
        the others.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    heartbeat: int = 30

    def __post_init__(self) -> None:
        checks.integer("heartbeat", self.heartbeat, at_least=1)
        if self.coordinator in (None, "auto"):
            for name in ("processes", "process"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f"{name} must be null unless coordinator is host:port, got {value}."
                    )
            return
        host, _, port = str(self.coordinator).rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(
                f"coordinator must be null, auto or host:port, got {self.coordinator!r}."
            )
        checks.integer("processes", self.processes, at_least=1)
        checks.integer("process", self.process, at_least=0)
        if self.process >= self.processes:  # type: ignore[operator]
            raise ValueError(
                f"process must be below {self.processes} processes, got {self.process}."
            )

    def saved(self) -> Hosts:
        """What is saved with the run: everything but the addresses."""
        auto = "auto" if self.coordinator == "auto" else None
        return replace(self, coordinator=auto, processes=None, process=None)


class HostsError(ValueError):
    """The processes of a run could not connect, or the first one refuses what all should do."""


_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def join(hosts: Hosts) -> None:
    """Connects this process with the others of its run. Later calls do nothing.

    Call it before any computation. From then on only the first process prints to standard output;
    the others print warnings and errors.

    Raises:
      HostsError: no address is known, or a process did not connect in time.
    """
    if hosts.coordinator is None or jax.distributed.is_initialized():
        return
    # JAX's service would catch SIGTERM, which dst.train.distributed.signals handles.
    jax.config.update("jax_enable_preemption_service", False)
    address = None if hosts.coordinator == "auto" else hosts.coordinator
    # JAX would listen at all addresses of the machine, also where all processes run on it.
    local = address is not None and address.rpartition(":")[0] in _LOOPBACK
    try:
        jax.distributed.initialize(
            address,
            hosts.processes,
            hosts.process,
            cluster_detection_method=None if address is None else "deactivate",
            coordinator_bind_address=address if local else None,
            heartbeat_timeout_seconds=hosts.heartbeat,
            shutdown_timeout_seconds=hosts.heartbeat,
        )
    except (ValueError, RuntimeError) as error:
        raise HostsError(
            f"hosts.coordinator={hosts.coordinator}: the processes of the run did not connect: "
            f"{error} See docs/hosts.md for how to launch them."
        ) from error
    if not first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def first() -> bool:
    """Whether this is the process that writes. A single process always is."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


_decisions = itertools.count()
_DAY = 24 * 3600 * 1000  # in ms; JAX ends a process that waits for a dead one


def decided(decide: Callable[[], T]) -> T:
    """Calls a function in the first process only; all processes get its result, or its error.

    Args:
      decide: the function. Its result must be of types that JSON has.

    Raises:
      HostsError: in the others, a ValueError of the first one; or what they read there is not from
        it.
      OSError, RuntimeError: in the others, an OSError or any other error of the first one.
    """
    if not jax.distributed.is_initialized():
        return decide()
    from jax._src.distributed import global_state  # has no public name; Orbax uses it too

    client: Any = global_state.client  # not typed
    key = f"dst/decided/{next(_decisions)}"
    if not first():
        return _received(client.blocking_key_value_get_bytes(key, _DAY))
    try:
        result = decide()
        text = json.dumps({"result": result})
    except Exception as error:
        kind = next((name for name, x in _KINDS.items() if isinstance(error, x)), "Exception")
        words = str(error) if kind in _KINDS else f"{type(error).__name__}: {error}"
        client.key_value_set_bytes(key, json.dumps({"error": kind, "words": words}).encode())
        raise
    client.key_value_set_bytes(key, text.encode())
    return result


_KINDS = {"ValueError": ValueError, "OSError": OSError}  # of errors that users can mend
_RAISED = {"ValueError": HostsError, "OSError": OSError, "Exception": RuntimeError}


def _received(text: bytes) -> Any:
    """The result that the first process has written; its error is raised."""
    try:
        match json.loads(text):
            case {"result": result}:
                return result
            case {"error": str(kind), "words": str(words)} if kind in _RAISED:
                error = _RAISED[kind](words)
            case _:
                raise ValueError("something else")
    except (ValueError, RecursionError) as unread:
        raise HostsError(
            "hosts.coordinator: expected what the first process has decided, found something "
            "else. Does another program use this port? docs/hosts.md says which must be private."
        ) from unread
    raise error


@contextmanager
def held(take: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Within it the first process holds what only one process may hold, such as a lock.

    An error of ``take`` is raised in all processes.
    """
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(take())

        decided(enter)
        yield


def any_process(flag: bool) -> bool:
    """Whether a flag is set in any process. All must call it, at one step; it waits for them."""
    if not jax.distributed.is_initialized():
        return flag
    return bool(multihost_utils.process_allgather(flag).any())


def gathered(tree: PyTree) -> PyTree:
    """A tree of arrays, whole in every process. All must call it; whole arrays stay as they are."""

    def whole(x: Any) -> Any:
        own = not isinstance(x, jax.Array) or x.is_fully_addressable
        return x if own else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)
