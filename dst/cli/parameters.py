"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
