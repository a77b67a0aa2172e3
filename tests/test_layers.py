"""Who may look into which room, and what ``import dst`` brings with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "dst"

# A room may import from its own layer and from lower ones.
LAYERS = [
    {"checks", "_typing", "tree", "sums", "selection"},
    {"allocation", "scores", "schedule", "structure"},
    {"rule", "budget", "latent", "topology", "plan"},
    {"state", "clock", "initial", "memory", "moments", "pullback", "transform", "invariants"},
    {"methods", "contrib", "view", "prune", "sensitivity", "explain"},
    {"nnx", "occupation", "origins", "tracing", "flops", "export", "pixels"},
    {"models"},
    {"train"},
    {"sweep", "report", "lottery", "commands", "cli"},
]
LAYER_OF = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
FACADE = 4  # `import dst` itself shows layers 0 to 4
OUTSIDE = {"experiments", "configs", "tests", "benchmarks", "notebooks"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports, also inside functions: ``dst.tree``, ``jax.numpy``."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name}: relative imports hide the room"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_of(names: set[str]) -> set[str]:
    """The rooms of dst that the names lie in; ``dst`` for what only the facade has."""
    inside = [name.split(".") for name in names if name.split(".")[0] == "dst"]
    return {parts[1] if len(parts) > 1 and parts[1] in LAYER_OF else "dst" for parts in inside}


def test_every_file_is_in_a_room():
    unknown = {room(f) for f in FILES if room(f) != "__init__"} - LAYER_OF.keys()
    assert not unknown, f"say in tests/test_layers.py which layer {unknown} belong to"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_lower_rooms_never_import_higher_ones(file):
    names = imports(file)
    assert not {n for n in names if n.split(".")[0] in OUTSIDE}
    if room(file) == "__init__":
        eager = {
            node.module.split(".")[1]
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.ImportFrom) and node.module.startswith("dst.")
        }
        assert all(LAYER_OF[r] <= FACADE for r in eager)
        return
    here = LAYER_OF[room(file)]
    for other in rooms_of(names):
        there = FACADE + 0.5 if other == "dst" else LAYER_OF[other]
        assert there <= here, f"{file.name} (layer {here}) imports {other} (layer {there})"


def test_the_import_is_light_and_starts_no_backend():
    program = """
import sys
import dst

heavy = {"flax", "orbax", "wandb", "sklearn", "matplotlib", "pydantic", "safetensors", "rich"}
loaded = heavy & {name.split(".")[0] for name in sys.modules}
assert not loaded, loaded
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("dst.")}
higher = {"nnx", "occupation", "origins", "tracing", "flops", "export", "pixels"}
higher |= {"models", "train", "sweep", "report", "lottery", "commands", "cli"}
assert not rooms & higher, rooms

from jax._src import xla_bridge

assert not xla_bridge._backends, list(xla_bridge._backends)
assert set(dst.__all__) <= set(dir(dst))
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
    assert len(file.read_text().splitlines()) <= 150
