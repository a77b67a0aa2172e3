"""Arguments and options that several commands have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from dst.core.text import shown

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Values that replace those of the config: dotted keys, YAML values. They may stand "
        "between options.",
    ),
]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="Run directory; runs/<name> unless given."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def windows(text: str) -> tuple[int | None, int]:
    """How many pieces of text, and tokens in each; None: all that there are.

    Raises:
      ValueError: another form than ``32x256`` or ``allx256``.
    """
    found = re.fullmatch(r"(all|\d{1,9})x(\d{1,9})", text)
    if not found:
        raise ValueError(f"windows must be NxLENGTH, such as 32x256, got {shown(text)}.")
    return None if found[1] == "all" else int(found[1]), int(found[2])
