"""Which folder may import from which, and what ``import dst`` brings with it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "dst"

# | 2 | `methods/`, `contrib/` | which published methods are there? |
_ROW = re.compile(r"^\| (\d+) \| ((?:`[a-z_]+(?:/|\.py)`(?:, )?)+) \|", re.MULTILINE)
# CONTRIBUTING.md shows the table; this is its only copy.
LAYER_OF = {
    name: int(number)
    for number, names in _ROW.findall((REPOSITORY / "CONTRIBUTING.md").read_text())
    for name in re.findall(r"`([a-z_]+)(?:/|\.py)`", names)
}
FACADE = 4  # `import dst` itself shows layers 0 to 4
OUTSIDE = {"experiments", "configs", "tests", "benchmarks", "notebooks"}
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST, P90 = 350, 300


def module(file: Path) -> str:
    """The dotted name of a file: ``dst.core.tree``, of a package without ``__init__``."""
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(file): file for file in FILES}


@cache
def imports(file: Path) -> frozenset[str]:
    """Dotted names that a file imports, also inside functions: ``dst.core.tree``."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name}: relative imports hide the folder"
            names |= {f"{node.module}.{name.name}" for name in node.names}
    return frozenset(names)


def modules(file: Path) -> set[str]:
    """The modules of dst that a file imports."""
    inside = {n for n in imports(file) if n.split(".")[0] == "dst"}
    return {n if n in MODULES else n.rpartition(".")[0] or n for n in inside}


def folder(name: str) -> str:
    """``core`` of ``dst.core.tree``; empty for ``dst`` itself."""
    return name.split(".")[1] if "." in name else ""


def test_the_top_level_holds_the_folders_of_the_table():
    names = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    files = {"__init__.py", "nnx.py", "py.typed"}
    assert {n for n in names if "." in n} <= files
    folders = {n for n in names if "." not in n}
    assert folders <= LAYER_OF.keys(), "name the folder in the table of CONTRIBUTING.md"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_lower_layers_never_import_higher_ones(file):
    assert not {n for n in imports(file) if n.split(".")[0] in OUTSIDE}
    if file == PACKAGE / "__init__.py":
        eager = {
            folder(node.module)
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.ImportFrom) and node.module.startswith("dst.")
        }
        assert all(LAYER_OF[name] <= FACADE for name in eager)
        return
    here = LAYER_OF[folder(module(file))]
    for name in modules(file):
        if not folder(name):
            there = FACADE + 0.5  # the facade itself
        else:
            there = LAYER_OF[folder(name)]
        assert there <= here, f"layer {here} imports {name}, of layer {there}"


def circle(graph):
    """A circle in a graph ``{node: nodes it leads to}``, as a list of nodes; empty without one."""

    def search(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for other in sorted(graph[node]):
                if path_back := search(other, [*path, node]):
                    return path_back
            done.add(node)
        return []

    done = set()
    return next(filter(None, (search(node, []) for node in sorted(graph))), [])


def test_no_two_modules_import_each_other():
    assert not circle({name: modules(file) - {"dst"} for name, file in MODULES.items()})


def test_no_two_folders_import_each_other():
    edges = {name: set() for name in LAYER_OF}
    for name, file in MODULES.items():
        if folder(name):
            edges[folder(name)] |= {folder(other) for other in modules(file)} - {"", folder(name)}
    assert not circle(edges)


def test_files_are_short():
    lengths = sorted((len(f.read_text().splitlines()), str(f.relative_to(PACKAGE))) for f in FILES)
    assert lengths[-1][0] <= LONGEST, lengths[-1]
    assert lengths[int(0.9 * len(lengths))][0] < P90


def test_the_import_is_light_and_starts_no_backend():
    program = f"""
import sys
import dst

heavy = {{"flax", "orbax", "wandb", "sklearn", "matplotlib", "pydantic", "safetensors", "rich"}}
loaded = heavy & {{name.split(".")[0] for name in sys.modules}}
assert not loaded, loaded
folders = {{name.split(".")[1] for name in sys.modules if name.startswith("dst.")}}
higher = {{name for name, layer in {LAYER_OF}.items() if layer > {FACADE}}}
assert not folders & higher, folders

from jax._src import xla_bridge

assert not xla_bridge._backends, list(xla_bridge._backends)
assert set(dst.__all__) <= set(dir(dst)) | set(dst._LAZY)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("file", sorted((PACKAGE / "methods").glob("*.py")), ids=lambda f: f.name)
def test_a_method_is_a_short_file(file):
    assert len(file.read_text().splitlines()) <= 100


def test_no_six_lines_stand_in_two_methods():
    places = {}
    for file in sorted((PACKAGE / "methods").glob("*.py")):
        lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
        for i in range(len(lines) - 5):
            places.setdefault("\n".join(lines[i : i + 6]), set()).add(file.name)
    assert not {run: files for run, files in places.items() if len(files) > 1}
