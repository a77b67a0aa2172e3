"""Several processes as one run: they join, agree, and the first one writes.

Every process runs the same program on its own devices and its own part of each batch. What only one
may do (the directory, its lock, records, the screen, the report) the first process does; what it
finds, and its errors, are told to all through the coordination service of ``jax.distributed``.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from dst.core import checks

T = TypeVar("T")


@dataclass(frozen=True)
class Hosts:
    """Several processes as one run. Addresses are those of one launch, and are not saved with it.

    Attributes:
      coordinator: where the first process listens, `host:port`; auto: found by JAX on SLURM,
        Kubernetes, Cloud TPU and under Open MPI; null: one process.
      processes: how many there are, with an address.
      process: which of them this one is, from 0, with an address.
      heartbeat: seconds without a sign of life after which a process counts as dead, and the
        others are ended.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    heartbeat: int = 30

    def __post_init__(self) -> None:
        checks.integer("heartbeat", self.heartbeat, at_least=1)
        if self.coordinator in (None, "auto"):
            for name in ("processes", "process"):
                if (found := getattr(self, name)) is not None:
                    raise ValueError(
                        f"{name} must be null unless coordinator is host:port, got {found}."
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
        """Without what is of one launch."""
        auto = "auto" if self.coordinator == "auto" else None
        return replace(self, coordinator=auto, processes=None, process=None)


class HostsError(ValueError):
    """Processes that cannot find each other."""


def join(hosts: Hosts) -> None:
    """Makes this process one of a run's, before anything is computed; once, later calls do nothing.

    The others than the first print nothing from here on but warnings and errors.

    Raises:
      HostsError: nobody says where the others are, or they do not come.
    """
    if hosts.coordinator is None or jax.distributed.is_initialized():
        return
    # It would take SIGTERM, which dst.train.distributed.signals answers.
    jax.config.update("jax_enable_preemption_service", False)
    address = None if hosts.coordinator == "auto" else hosts.coordinator
    try:
        jax.distributed.initialize(
            address,
            hosts.processes,
            hosts.process,
            cluster_detection_method=None if address is None else "deactivate",
            heartbeat_timeout_seconds=hosts.heartbeat,
            shutdown_timeout_seconds=hosts.heartbeat,
        )
    except (ValueError, RuntimeError) as error:
        raise HostsError(
            f"hosts.coordinator={hosts.coordinator}: the processes of the run did not find each "
            f"other: {error} See docs/hosts.md for how to launch them."
        ) from error
    if not first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def first() -> bool:
    """Whether this process writes; the only one of a run always does."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


_decisions = itertools.count()
_DAY = 24 * 3600 * 1000  # in ms; who waits for a process that has died is ended by JAX


def decided(decide: Callable[[], T]) -> T:
    """What the first process finds or does, for all: its result, or its error.

    Args:
      decide: called by the first process only. Result and error must be picklable.
    """
    if not jax.distributed.is_initialized():
        return decide()
    from jax._src.distributed import global_state  # has no public name; Orbax uses it too

    client: Any = global_state.client
    key = f"dst/decided/{next(_decisions)}"
    if not first():
        found, error = pickle.loads(client.blocking_key_value_get_bytes(key, _DAY))
        if error is not None:
            raise error
        return found
    try:
        found = decide()
    except Exception as error:
        client.key_value_set_bytes(key, pickle.dumps((None, error)))
        raise
    client.key_value_set_bytes(key, pickle.dumps((found, None)))
    return found


@contextmanager
def held(take: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Within it the first process has what only one may have; if it cannot, all get its error."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(take())

        decided(enter)
        yield


def anywhere(flag: bool) -> bool:
    """Whether a flag is set in any process. All must ask, at one step; devices are waited for."""
    if not jax.distributed.is_initialized():
        return flag
    return bool(multihost_utils.process_allgather(flag).any())


def gathered(tree: Any) -> Any:
    """A tree of arrays, whole in every process. All must ask; what one has whole stays as it is."""

    def whole(x: Any) -> Any:
        own = not isinstance(x, jax.Array) or x.is_fully_addressable
        return x if own else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)
