"""Examples of docstrings, executed."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "dst").rglob("*.py"))
    if re.search(r"^ *>>> ", file.read_text(), re.MULTILINE)
]
# Those that make networks take seconds each.
SLOW = [x for x in MODULES if x.startswith("dst.models.")]


def run(module):
    found = doctest.testmod(importlib.import_module(module), raise_on_error=False)
    assert found.failed == 0, f"{found.failed} of {found.attempted} examples of {module}"
    return found.attempted


def test_examples_of_docstrings_give_what_they_say():
    attempted = {module: run(module) for module in MODULES if module not in SLOW}
    assert len(attempted) > 25 and sum(attempted.values()) > 50


@pytest.mark.evidence
@pytest.mark.parametrize("module", SLOW)
def test_examples_of_networks_give_what_they_say(module):
    assert run(module) > 0
