"""``dst schema``: the JSON Schema that editors check configs with."""

from __future__ import annotations

import json

from dst.cli.exits import DONE


def schema() -> int:
    """Print the JSON Schema of configs."""
    from dst.studies.lottery.config import KEY
    from dst.studies.lottery.config import json_schema as lottery
    from dst.train.config.json_schema import json_schema
    from dst.train.config.run import Config

    text = json_schema(Config)
    text["properties"][KEY] = lottery()
    print(json.dumps(text, indent=2))
    return DONE
