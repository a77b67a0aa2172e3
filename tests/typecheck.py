"""The run-time check of annotations: what jaxtyping's import hook applies to functions.

It is for shapes and dtypes, which mypy cannot check; a module without them is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float
_SHAPED = re.compile(r"\b(Bool|Float|Int|Num|UInt8)\[")
_ROOT = Path(__file__).parents[1]


def shaped_modules() -> list[str]:
    """The modules of dst in whose source an annotation gives a shape."""
    files = sorted((_ROOT / "dst").rglob("*.py"))
    shaped = [f for f in files if _SHAPED.search(f.read_text(encoding="utf-8"))]
    return [".".join(f.relative_to(_ROOT).with_suffix("").parts) for f in shaped]


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks a function's annotations; not those of a dataclass's fields.

    Fields are user input: the library's own messages about wrong ones are under test.
    """
    return function if function.__name__ == "__init__" else _checked(function)
