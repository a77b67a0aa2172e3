"""Docstrings: their examples run, and the tests that they cite exist."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_RUN = re.compile(r"^ *>>> (?!.*# doctest: \+SKIP)", re.MULTILINE)
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "dst").rglob("*.py"))
    if _RUN.search(file.read_text())
]
# Those that make networks take seconds each.
SLOW = [x for x in MODULES if x.startswith(("dst.activations.", "dst.models."))]


def run(module):
    result = doctest.testmod(importlib.import_module(module), raise_on_error=False)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {module}"
    return result.attempted


def test_examples_of_docstrings_give_what_they_say():
    attempted = {module: run(module) for module in MODULES if module not in SLOW}
    assert len(attempted) > 25 and sum(attempted.values()) > 50


@pytest.mark.evidence
@pytest.mark.parametrize("module", SLOW)
def test_examples_of_networks_give_what_they_say(module):
    assert run(module) > 0


def citations(text):
    """``(file, test)`` of every ``tests/...py::test``; a bare ``::test`` is of the last file."""
    file = None
    for path, test in re.findall(r"(tests/[\w/]+\.py)?(?:::(test_\w+))?", text):
        file = path or file
        if path or test:
            yield file, test


CITING = [x for x in sorted((ROOT / "dst").rglob("*.py")) if any(citations(x.read_text()))]


@pytest.mark.parametrize("file", CITING, ids=lambda f: f.stem)
def test_the_tests_that_a_file_cites_exist(file):
    for path, test in citations(file.read_text()):
        assert (ROOT / path).is_file(), path
        tree = ast.parse((ROOT / path).read_text())
        names = {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)}
        assert not test or test in names, f"{path}::{test}"


def test_citations_are_read_across_lines():
    text = "see tests/a/test_b.py::test_one and\n    ::test_two; ``tests/test_c.py``."
    assert list(citations(text)) == [
        ("tests/a/test_b.py", "test_one"),
        ("tests/a/test_b.py", "test_two"),
        ("tests/test_c.py", ""),
    ]
