"""Executes notebooks. ``python -m tests.notebooks [FILE ...]`` stores outputs (default: all)."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Those of the source files: an execution would add versions.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ThisPython(KernelSpecManager):
    """Kernels are the Python that runs the tests, whatever is installed for Jupyter."""

    def get_kernel_spec(self, kernel_name):
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=launch, language="python", display_name=kernel_name)


def environment(folder, fast):
    """That of a user: one device, and no settings of IPython's or Matplotlib's from outside."""
    ours = ("XLA_FLAGS", "MPLBACKEND", "DST_FAST")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    kept |= {"IPYTHONDIR": folder, "JAX_PLATFORMS": "cpu"}
    if fast:  # most of the time is compilation then
        kept |= {"DST_FAST": "1", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return kept


def executed(path, where, fast):
    """The notebook with its outputs, and the CPU seconds that it took."""
    notebook = nbformat.read(path, as_version=4)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:  # names of sockets must be short
        manager = AsyncKernelManager(
            kernel_spec_manager=ThisPython(),
            transport="ipc",
            ip=f"{folder}/kernel",
            connection_file=f"{folder}/kernel.json",
        )
        client = NotebookClient(
            notebook,
            manager,
            timeout=600,
            resources={"metadata": {"path": str(where)}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env=environment(folder, fast), cleanup_kc=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{path.stem}: {time.monotonic() - start:.0f} s, {seconds:.0f} s of CPU", flush=True)
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook, seconds


def outputs(notebook):
    return [x for cell in notebook.cells if cell.cell_type == "code" for x in cell.outputs]


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or NOTEBOOKS):
        with tempfile.TemporaryDirectory() as where:
            notebook, _ = executed(path, where, fast=False)
        nbformat.write(notebook, path)
