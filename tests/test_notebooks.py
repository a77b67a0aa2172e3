"""The course: every notebook runs from top to bottom, from any directory, and shows pictures."""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CORES = 2
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


class ThisPython(KernelSpecManager):
    """Kernels are the Python that runs the tests, whatever is installed for Jupyter."""

    def get_kernel_spec(self, kernel_name):
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=launch, language="python", display_name=kernel_name)


def environment(folder, fast):
    """That of a user: one device, and no settings of IPython's or Matplotlib's from outside."""
    ours = ("XLA_FLAGS", "MPLBACKEND", "DST_FAST")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["IPYTHONDIR"] = folder
    if fast:  # compilation is most of what they cost then
        environment |= {"DST_FAST": "1", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return environment


def executed(path, where, fast):
    """The notebook with its outputs, and the seconds of processors that it took."""
    notebook = nbformat.read(path, as_version=4)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:  # names of sockets must be short
        manager = AsyncKernelManager(
            kernel_spec_manager=ThisPython(),
            transport="ipc",
            ip=f"{folder}/kernel",
            connection_file=f"{folder}/kernel.json",
        )
        places = {"metadata": {"path": str(where)}}
        client = NotebookClient(notebook, manager, timeout=600, resources=places)
        client.execute(env=environment(folder, fast), cleanup_kc=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{path.stem}: {time.monotonic() - began:.0f} s, of processors {seconds:.0f} s")
    return notebook, seconds


def outputs(notebook):
    return [x for cell in notebook.cells if cell.cell_type == "code" for x in cell.outputs]


def check(path, where, fast, minutes):
    """Runs it without complaint, in time, with pictures, and with nothing left behind."""
    where.mkdir()
    notebook, seconds = executed(path, where, fast)
    assert seconds < CORES * 60 * minutes
    shown = outputs(notebook)
    assert [x.text for x in shown if x.output_type == "stream" and x.name == "stderr"] == []
    assert sum("image/png" in x.get("data", {}) for x in shown) >= 2
    assert list(where.iterdir()) == []


def test_the_course_has_its_five_lessons():
    assert [path.stem[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_", "04_", "05_"]


@every_notebook
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert outputs(notebook) == []
    assert all(x.execution_count is None for x in notebook.cells if x.cell_type == "code")
    assert set(notebook.metadata) == {"kernelspec", "language_info"}  # of no machine and no editor


@every_notebook
def test_cells_have_ids_and_the_first_is_a_heading(path):
    notebook = nbformat.read(path, as_version=4)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(rf"# {int(path.stem[:2])}\. \w", first.source)


@every_notebook
def test_files_that_notebooks_link_to_exist(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    linked = [x for x in re.findall(r"\]\(([^)]+)\)", text) if not x.startswith("https://")]
    assert linked
    assert [x for x in linked if not (path.parent / x).exists()] == []


@every_notebook
def test_notebooks_run_in_a_fast_mode(path, tmp_path):
    # 20 s where nobody else computes; processors that are shared count up to three times that.
    check(path, tmp_path / "anywhere", fast=True, minutes=1)


@pytest.mark.evidence
@every_notebook
def test_whole_notebooks_take_at_most_two_minutes(path, tmp_path):
    check(path, tmp_path / "anywhere", fast=False, minutes=2)
