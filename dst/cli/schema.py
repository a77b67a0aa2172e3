"""``dst schema``: the JSON Schemas that editors check configs and sweep files with."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dst.cli.exits import DONE

Sweep = Annotated[bool, typer.Option("--sweep", help="That of sweep files.")]


def schema(sweep: Sweep = False) -> int:
    """Print the JSON Schema of configs, or of sweep files."""
    print(text(sweep=sweep))
    return DONE


def text(*, sweep: bool) -> str:
    """The JSON Schema of configs, or of sweep files, as the text of a file."""
    from dst.studies.continual import config as continual
    from dst.studies.lottery import config as lottery
    from dst.train.config.json_schema import document, json_schema
    from dst.train.config.run import Config

    of_config = json_schema(Config)
    if sweep:
        from dst.studies.sweep.json_schema import json_schema as of_sweep

        found = document(of_sweep(of_config), "A sweep of dst")
    else:
        for study in (lottery, continual):
            of_config["properties"][study.KEY] = study.json_schema()
        found = document(of_config, "A config of dst")
    return json.dumps(found, indent=2)
