"""What docstrings say: of each field, and under each title."""

from __future__ import annotations

import inspect
import re
from typing import Any

import docstring_parser


def field_texts(cls: Any) -> dict[str, str]:
    """What the docstrings of a class, and of those it is derived from, say of each field.

    Each text is one line.
    """
    style = docstring_parser.DocstringStyle.GOOGLE
    texts: dict[str, str] = {}
    for doc in [vars(base).get("__doc__") for base in reversed(cls.__mro__[:-1])]:
        for entry in docstring_parser.parse(inspect.cleandoc(doc or ""), style).params:
            words = " ".join((entry.description or "").split())
            texts |= {name.strip(): words for name in entry.arg_name.split(",")}
    return texts


def paragraphs(thing: Any) -> dict[str, str]:
    """The titled sections of a docstring (``Args``, ``References``, ``Checked against``, ...)."""
    title = r"^(Args|Attributes|Example|References|Raises|Checked against|Differs from[^:\n]*):"
    parts = re.split(title, inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return {
        name: inspect.cleandoc(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
