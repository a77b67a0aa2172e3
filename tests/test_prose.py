"""The pages are plain English: short sentences, in the words of the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    + [x for x in (ROOT / "docs").rglob("*.md") if "generated" not in x.parts]
    + list((ROOT / "experiments").glob("*/README.md"))
)
LONGEST = {"README.md": 25}  # words of a sentence
ELSEWHERE = 30
# Metaphors that stood for terms of the field: lane for batched trial, book for storage, ...
PRIVATE = re.compile(
    r"\b(lanes?|books?|claim(s|ed)?|giv(e|es|en) back|rooms?|owe[sd]?|told|begun|anew|occupation"
    r"|pullback|cadences?|clocks?|young|goes on on|due)\b",
    re.IGNORECASE,
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> list[str]:
    """The paragraphs and list items of a page, without code, tables, pictures and addresses."""
    text = re.sub(r"^ *(```+|~~~+).*?^ *\1", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "\n", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(`+)[^`]+\1", "CODE", text)
    text = re.sub(r"^(\||#).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^ *([*-]|\d+\.|:) +", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"[*_]", "", text)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def sentences(text: str) -> list[str]:
    return [s for part in prose(text) for s in re.split(r"(?<=[.!?])[\")]*\s+", part)]


def words(sentence: str) -> int:
    return len(re.findall(r"\S*\w\S*", sentence))


def test_sentences_are_counted_without_code_tables_and_links():
    text = (
        "# A head\n\nOne [two three](x.md) `four five` six. Seven, eight!\n\n| a | table |\n\n"
        "* nine\n* ten eleven\n  twelve\n\n```\ncode that is long\n```\n\n![no words](x.png)\n"
    )
    assert [words(s) for s in sentences(text)] == [5, 2, 1, 3]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_sentences_are_short(page):
    most = LONGEST.get(name(page), ELSEWHERE)
    long = [f"{words(s)}: {s}" for s in sentences(page.read_text()) if words(s) > most]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_speak_the_words_of_the_field(page):
    text = "\n".join(prose(page.read_text()))
    assert not [x[0] for x in PRIVATE.finditer(text)]
