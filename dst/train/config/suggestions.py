"""Which key was meant by one that no section has: another word for it, or another section."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dst.core.text import shown
from dst.train.config import schema, strict

# What people write elsewhere, and the name of the field here.
OTHER_WORDS = {
    "arch": "model",
    "batch": "batch_size",
    "beta1": "b1",
    "beta2": "b2",
    "bs": "batch_size",
    "dataset": "data",
    "delta_t": "every",
    "epochs": "steps",
    "grad_clip": "clip",
    "iterations": "steps",
    "lr": "learning_rate",
    "prune_rate": "drop_fraction",
    "update_freq": "every",
    "wd": "weight_decay",
}
_NEAR = 0.7  # of a key elsewhere; more than within a section, where fewer keys can be meant
_MOST = 3  # suggestions in one message


@contextmanager
def added(cls: type, given: Mapping[str, Any]) -> Iterator[None]:
    """Within this context the error of an unknown key names the key that was probably meant.

    Args:
      cls: the dataclass of the whole config.
      given: the config as plain data.

    Raises:
      ValueError: instead of :class:`strict.UnknownKey`.
    """
    try:
        yield
    except strict.UnknownKey as error:
        raise ValueError(error.message(_suggested(cls, given, error))) from error


def _suggested(cls: type, given: Mapping[str, Any], error: strict.UnknownKey) -> str:
    word = error.name.lower().replace("-", "_")
    meant = OTHER_WORDS.get(word, word)
    if meant in error.known:
        return f" Did you mean {shown(meant)}?"
    places: dict[str, list[str]] = {}
    for key in keys(cls, given):
        places.setdefault(key.rpartition(".")[2], []).append(key)
    if meant not in places and not error.near:
        near = difflib.get_close_matches(meant, places, n=1, cutoff=_NEAR)
        meant = near[0] if near else meant
    found = " or ".join(map(shown, places.get(meant, ())[:_MOST]))
    return f" Did you mean {found}?" if found else error.near


def keys(cls: Any, given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a config may have, with the model, method, ... that it names.

    Args:
      cls: the dataclass of the config, or of a section.
      given: it as plain data; it decides between the options of a section.
      prefix: of the keys, with its dot.
    """
    for field in strict.fields(cls):
        yield prefix + field.name
        hint, value = strict.hints(cls)[field.name], given.get(field.name)
        inner = hint if dataclasses.is_dataclass(hint) else None
        if choice := schema.choice_of(hint):
            name = value.get("name") if isinstance(value, Mapping) else value
            option = choice.options.get(choice.entry(name) or "")
            inner = option and option.type
        if inner is not None:
            below = value if isinstance(value, Mapping) else {}
            yield from keys(inner, below, f"{prefix}{field.name}.")
