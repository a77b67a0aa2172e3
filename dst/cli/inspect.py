"""``dst inspect``: weights and costs of a config, before any training."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dst.cli.exits import BAD_INPUT, DONE, fail
from dst.cli.parameters import Config, Overrides

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def inspect(config: Config, overrides: Overrides = None, as_json: Json = False) -> int:
    """Show a config's weights and costs; no training."""
    from dst.train.config import run as configs

    changes = overrides or []
    settings = configs.load(config, changes)
    from dst.train import setup  # loads Flax, for a config that is known to be good

    try:
        costs = setup.make(settings).costs()
    except setup.SetupError as error:
        return fail(f"{configs.source(config, changes)}: {error}", BAD_INPUT)
    print(json.dumps(costs.to_dict(), indent=2) if as_json else costs)
    return DONE
