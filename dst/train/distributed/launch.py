"""Several processes of one run on this machine: started, watched, stopped together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

_POLL = 0.1  # seconds


def launch(command: Sequence[str], processes: int, devices: int | None = None) -> int:
    """Runs ``dst`` in several processes, which connect over the loopback interface.

    SIGTERM and SIGINT are passed on. When a process dies, JAX ends the others within
    ``hosts.heartbeat`` seconds, in native code and without a message. The message is printed here.

    Args:
      command: arguments of ``dst``: ``train`` or ``resume`` with theirs.
      processes: how many.
      devices: fake CPU devices in each; None: all devices of the machine, in each.

    Returns:
      The exit code of the process that ended first without success, 1 for one that was killed; 0
      where there is none. So 75 where all have stopped with a checkpoint.
    """
    environment = dict(os.environ)
    if devices is not None:
        environment["JAX_PLATFORMS"] = "cpu"
        # XLA's usual order can deadlock devices that share few cores: each waits in another sum.
        environment["XLA_FLAGS"] = (
            f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
            " --xla_cpu_enable_concurrency_optimized_scheduler=false"
        )
        # XLA's threads. Up to 32 steps are dispatched at once. With one thread per device, threads
        # that wait to start a later step can block the earlier steps for ever.
        environment["NPROC"] = str(max(os.cpu_count() or 1, 4 * devices))
    running: dict[int, subprocess.Popen] = {}

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in running.values():
            process.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        address = f"127.0.0.1:{_free_port()}"
        for i in range(processes):
            hosts = {"coordinator": address, "processes": processes, "process": i}
            overrides = [f"hosts.{key}={value}" for key, value in hosts.items()]
            running[i] = subprocess.Popen(
                [sys.executable, "-m", "dst.cli", *command, *overrides],
                env=environment,
                start_new_session=True,  # Ctrl-C reaches them once, through `pass_on`
            )
        return _watch(running)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(running: dict[int, subprocess.Popen]) -> int:
    """Waits for all processes; returns the exit code of the first failure, or 0."""
    code = 0
    while running:
        ended = {i: p.returncode for i, p in running.items() if p.poll() is not None}
        for i, status in ended.items():
            del running[i]
            if status == 0 or status == code:
                continue
            killed = status < 0
            how = f"by {signal.Signals(-status).name}" if killed else f"with code {status}"
            print(f"dst launch: process {i} ended {how}", file=sys.stderr, flush=True)
            if code == 0:
                code = 1 if killed else status
                if killed and running:
                    print(_ADVICE, file=sys.stderr, flush=True)
        time.sleep(_POLL)
    return code


_ADVICE = (
    "dst launch: JAX ends the others within hosts.heartbeat seconds; then `dst launch ... resume "
    "RUN_DIR` continues at the newest checkpoint"
)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
