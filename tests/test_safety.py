"""No file and no neighbour makes the package run code: there is no pickle, no eval, no shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dst"
FILES = {file.relative_to(PACKAGE).as_posix(): file for file in sorted(PACKAGE.rglob("*.py"))}
MODULES = frozenset(
    "pickle _pickle cPickle dill cloudpickle shelve marshal joblib jsonpickle yaml code".split()
)
CALLS = frozenset("eval exec compile __import__".split())
# Annotations of the package's own source.
ALLOWED = {"train/config/signatures.py": {"eval"}}


def unsafe(source: str) -> set[str]:
    """What a module uses that runs what it reads."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= MODULES & {x.name.partition(".")[0] for x in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= MODULES & {(node.module or "").partition(".")[0]}
        elif isinstance(node, ast.Call):
            given = {x.arg: getattr(x.value, "value", None) for x in node.keywords}
            called = ast.unparse(node.func)
            if called.removeprefix("builtins.") in CALLS:
                found.add(called)
            if called in ("np.load", "numpy.load") and given.get("allow_pickle") is not False:
                found.add("np.load without allow_pickle=False")
            if given.get("allow_pickle"):
                found.add("allow_pickle=True")
            if given.get("shell") or called in ("os.system", "os.popen"):
                found.add("a shell")
            if called == "YAML" and given.get("typ") != "safe":
                found.add("YAML of any type")
    return found


def test_what_runs_code_is_recognised():
    for source in (
        "import pickle",
        "import os, pickle as p",
        "from cloudpickle import dumps",
        "import yaml",
        "eval('1')",
        "builtins.exec(x)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.save(f, x, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "YAML()",
        "YAML(typ='unsafe')",
    ):
        assert unsafe(source), source
    assert not unsafe("model.eval(); re.compile(x); np.load(f, allow_pickle=False)")
    assert not unsafe("ast.literal_eval(x); YAML(typ='safe'); import pickles; json.load(f)")


@pytest.mark.parametrize("name", FILES)
def test_no_module_runs_what_it_reads(name):
    assert unsafe(FILES[name].read_text(encoding="utf-8")) == ALLOWED.get(name, set())
