"""What docstrings say: of each field, and under each title."""

from __future__ import annotations

import inspect
import re
from typing import Any

import docstring_parser


def field_texts(cls: Any) -> dict[str, str]:
    """What the docstring of a class says of each field, on one line."""
    style = docstring_parser.DocstringStyle.GOOGLE
    parsed = docstring_parser.parse(inspect.getdoc(cls) or "", style)
    texts: dict[str, str] = {}
    for entry in parsed.params:
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
