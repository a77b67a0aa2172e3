"""Types of the public names: a user's strict script passes, and its mistakes are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "typing" / "user_script.py"
# As a type checker treats an installed package: its types count, its own errors are not shown.
SETTINGS = """
[mypy]
strict = true
[mypy-dst.*]
follow_imports = silent
"""
MISTAKES = """
import dst
dst.RigL(sparsity="high")  # error: arg-type
dst.RigL(sparsty=0.9)  # error: call-arg
dst.SET(0.9).sparsity.upper()  # error: attr-defined
dst.sparsify(None, dst.RigL(0.9), sed=0)  # error: call-arg
dst.save_masks(3, {})  # error: arg-type
dst.load_masks("a")["b"].activ  # error: attr-defined
dst.prune({}, 0.9)[1].sparsity  # error: attr-defined
dst.apply_masks([1.0], None).keys()  # error: attr-defined
dst.nnx.masks(1)  # error: arg-type
dst.flops.trac  # error: attr-defined
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mypy")
    (folder / "mypy.ini").write_text(SETTINGS)

    def run(text):
        script = folder / "script.py"
        script.write_text(text)
        command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", script.name]
        return subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "MYPYPATH": str(ROOT)},
            capture_output=True,
            text=True,
        ).stdout

    return run


@pytest.mark.evidence
def test_a_users_strict_script_passes_and_runs(strict, tmp_path):
    out = strict(SCRIPT.read_text())
    assert out == "Success: no issues found in 1 source file\n"
    command = [sys.executable, str(SCRIPT)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.evidence
def test_mistakes_in_calls_are_found_by_a_type_checker(strict):
    expected = {
        (i, re.search(r"# error: (\S+)", line)[1])
        for i, line in enumerate(MISTAKES.splitlines(), 1)
        if "# error" in line
    }
    found = re.findall(r"^script\.py:(\d+): error: .*\[(\S+)\]$", strict(MISTAKES), re.MULTILINE)
    assert {(int(line), kind) for line, kind in found} == expected
