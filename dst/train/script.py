"""Settings of a training script, from its command line: what sweeps pass to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dst.core import checks
from dst.core.text import shown
from dst.train.config import plain_data


def arguments(defaults: Mapping[str, Any], given: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings of a script: defaults, changed by ``key=value`` of its command line.

    ``dst sweep`` and W&B's agents pass the values of a trial like this.

    Args:
      defaults: by name, nested where you like; the command line writes nested ones with dots.
      given: what stands on the command line; None: ``sys.argv``.

    Returns:
      The defaults with the changes.

    Raises:
      SystemExit: 2, after a message: an unknown key, or a value of another type than its default.

    Example:
      >>> arguments({"seed": 0, "method": {"sparsity": 0.9}}, ["method.sparsity=0.5"])
      {'seed': 0, 'method': {'sparsity': 0.5}}
    """
    settings: Any = dict(defaults)
    try:
        for text in sys.argv[1:] if given is None else given:
            change = plain_data.override(text)
            _check(settings, change, "")
            settings = plain_data.merged(settings, change)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    return settings


def _check(known: Mapping[str, Any], change: Mapping[str, Any], prefix: str) -> None:
    for name, value in change.items():
        key = f"{prefix}{name}"
        if name not in known:
            raise checks.unknown("a key", key, [f"{prefix}{x}" for x in known])
        default = known[name]
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            _check(default, value, f"{key}.")
            continue
        kinds = (int, float) if type(default) is float else (type(default),)
        if default is not None and type(value) not in kinds:
            raise ValueError(
                f"{key} must be of the type of its default {shown(default)}, got {shown(value)}."
            )
