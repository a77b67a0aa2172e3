"""What the first process decides reaches the others as JSON, over a service that anyone can write
to: nothing that stands there runs code."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dst.train.distributed import processes
from tests.training import ROOT

HEAD = """
import sys
from dst.train.distributed import processes
from dst.train.distributed.processes import Hosts, decided
from dst.train.records.run_dir import DirectoryError

process, port = int(sys.argv[1]), sys.argv[2]
processes.join(Hosts(f"127.0.0.1:{port}", 2, process))

def fails(error):
    raise error
"""
AGREED = """
for value in (None, 3, 0.1 + 0.2, True, "a", [1, {"b": [None, 1e-300]}], {"x": float("inf")}):
    assert decided(lambda: value if process == 0 else "mine") == value
for error, kind in (
    (DirectoryError("runs/a exists"), processes.HostsError),
    (FileNotFoundError(2, "No such file", "x"), OSError),
    (KeyError("k"), RuntimeError),
):
    try:
        decided(lambda: fails(error))
    except Exception as found:
        assert (found is error) if process == 0 else (type(found) is kind), found
        assert str(error) in str(found), found
    else:
        raise AssertionError(error)
try:
    decided(lambda: object())
except (TypeError if process == 0 else RuntimeError) as error:
    assert "not JSON serializable" in str(error)
"""
# The second process writes before the first one has decided.
FORGED = """
import time
from pathlib import Path
from jax._src.distributed import global_state
if process == 1:
    global_state.client.key_value_set_bytes("dst/decided/0", BYTES)
    Path("written").touch()
    try:
        decided(lambda: 1)
    except processes.HostsError as error:
        assert "Does another program use this port?" in str(error)
    else:
        raise AssertionError
while not Path("written").exists():
    time.sleep(0.1)
"""


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def run(folder: Path, program: str) -> None:
    """Runs a program in two processes; both must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HEAD + program, str(i), port],
            cwd=folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said


def test_results_and_errors_of_the_first_process_are_those_of_all(tmp_path):
    run(tmp_path, AGREED)


def test_bytes_of_somebody_else_are_refused_and_run_nothing(tmp_path):
    run(tmp_path, FORGED.replace("BYTES", repr(pickle.dumps(Bomb()))))
    assert [x.name for x in tmp_path.iterdir()] == ["written"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x80\x04N.",
        b"[" * 100_000,
        b"[1]",
        b"3",
        b"{}",
        b'{"error": "SystemExit", "words": "x"}',
        b'{"error": ["ValueError"], "words": "x"}',
        b'{"error": "ValueError", "words": 3}',
        b"\xff\xfe",
    ],
    ids=lambda x: ascii(x[:12]),
)
def test_what_is_no_decision_is_refused(text):
    with pytest.raises(processes.HostsError, match="Does another program use this port"):
        processes._received(text)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens")
@pytest.mark.parametrize(("address", "everywhere"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_processes_of_one_machine_listen_at_its_own_address_only(address, everywhere, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"""
from pathlib import Path
from dst.train.distributed import processes
processes.join(processes.Hosts("{address}:{port}", 1, 0))
for name in ("tcp", "tcp6"):
    for row in Path("/proc/net", name).read_text().splitlines()[1:]:
        _, at, _, state, *_ = row.split()
        if state == "0A" and at.endswith(":{port:04X}"):
            print(at.partition(":")[0])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    (listening,) = done.stdout.split()
    assert (set(listening) == {"0"}) is everywhere
