"""The run-time check of annotations: what jaxtyping's import hook applies to every function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks a function's annotations; not those of a dataclass's fields.

    Fields are user input: the library's own messages about wrong ones are under test.
    """
    return function if function.__name__ == "__init__" else _checked(function)
