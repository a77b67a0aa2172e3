"""A PostgreSQL server for a test: its own data, a socket in a directory, no port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def _binaries() -> Path:
    """Where initdb and postgres are; Debian keeps them beside the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    own = shutil.which("initdb")
    if own is None and not installed:
        pytest.skip("no PostgreSQL here: initdb is not installed (Debian: postgresql)")
    return Path(own or installed[-1]).resolve().parent


def _user() -> dict[str, Any]:
    """The server refuses to be root; then it is somebody else."""
    if os.geteuid() != 0:
        return {}
    known = {x.pw_name for x in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses to run as root, and there is neither postgres nor nobody")


@contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database."""
    pytest.importorskip("psycopg")
    binaries, user = _binaries(), _user()
    # Not in pytest's directories: they are closed to others, and too long for a socket.
    where = Path(tempfile.mkdtemp(prefix="dst-pg-", dir="/tmp"))
    where.chmod(0o755)
    if user:
        shutil.chown(where, user["user"], user["group"])
    data = where / "data"
    try:
        command = [binaries / "initdb", "-D", data, "-U", "dst", "--auth=trust", "--no-sync"]
        subprocess.run(command, cwd=where, check=True, capture_output=True, **user)
        with (where / "log").open("w") as log:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", where, "-h", "", "-F"],
                cwd=where,
                stdout=log,
                stderr=log,
                **user,
            )
        try:
            while "ready to accept connections" not in (where / "log").read_text():
                assert process.poll() is None, (where / "log").read_text()
                time.sleep(0.1)
            yield f"postgresql://dst@/postgres?host={where}"
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown: clients are sent away
            process.wait(timeout=60)
    finally:
        shutil.rmtree(where)
