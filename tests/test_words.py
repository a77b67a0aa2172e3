"""Names in the code are terms of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dst"
PRIVATE = frozenset(
    "lane lanes book books claim claims room rooms young years due told owed owes begun anew "
    "occupation clock clocks pixels pullback".split()
)
ALLOWED = {
    "models/convnet.py": {"pixels"},  # of an image
    "models/lenet5.py": {"pixels"},  # of an image
    "report/pictures.py": {"pixels"},  # of an image
    "train/data/tfds.py": {"pixels"},  # of an image
}
FILES = {file.relative_to(PACKAGE).as_posix(): file for file in sorted(PACKAGE.rglob("*.py"))}


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Names, attributes, arguments, keywords, functions, classes and imports of a module."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def words(identifier: str) -> set[str]:
    """The words of ``snake_case`` and ``CamelCase``, in lower case."""
    return {w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}


def private_words(source: str) -> set[str]:
    return PRIVATE & set().union(*map(words, identifiers(ast.parse(source))))


def test_private_words_are_recognised_in_every_kind_of_identifier():
    for source in (
        "lanes = 1",
        "x.year.years",
        "def f(room_left): ...",
        "f(due=1)",
        "class OldBook: ...",
        "import dst.engine.clock",
        "from dst import masks as PULLBACK",
        "lambda owed: 0",
    ):
        assert private_words(source), source
    assert not private_words("plane = bookkeeping = headroom = '''lane''' # lane")


@pytest.mark.parametrize("name", FILES)
def test_identifiers_are_terms_of_the_field(name):
    path = set().union(*map(words, Path(name).with_suffix("").parts))
    private = private_words(FILES[name].read_text()) | (PRIVATE & path)
    assert private == ALLOWED.get(name, set())
