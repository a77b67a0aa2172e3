"""Executes notebooks. ``python -m tests.notebooks [FILE ...]`` stores outputs (default: all)."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / ".pytest_cache" / "compiled-notebooks"
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


@contextmanager
def compiled():
    """A folder with the programs that earlier runs compiled. A run that fails adds nothing to it.

    JAX writes in place: a killed kernel may leave half a program, of which the next one would warn.
    """
    COMPILED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=COMPILED.parent) as folder:
        shutil.copytree(COMPILED, folder, dirs_exist_ok=True)
        yield folder
        for entry in Path(folder).iterdir():
            os.replace(entry, COMPILED / entry.name)


def environment(folder, programs):
    """That of a user: one device, and no settings of IPython's or Matplotlib's from outside."""
    ours = ("XLA_FLAGS", "MPLBACKEND", "DST_FAST")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    kept |= {"IPYTHONDIR": folder, "JAX_PLATFORMS": "cpu"}
    if programs:  # the fast mode, where most of the time is compilation
        kept |= {
            "DST_FAST": "1",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": programs,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",  # or keys depend on the folder
        }
    return kept


def executed(path, where, fast):
    """The notebook with its outputs, and the CPU seconds that it took."""
    notebook = nbformat.read(path, as_version=4)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    programs = compiled() if fast else nullcontext()
    # Names of sockets must be short.
    with programs as programs, tempfile.TemporaryDirectory(prefix="dst-") as folder:
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
        client.execute(env=environment(folder, programs), cleanup_kc=True)
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
