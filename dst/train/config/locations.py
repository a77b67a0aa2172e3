"""Where the files lie that a section of a config names."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from dst.core.registry import Registry
from dst.train.config.schema import Section
from dst.train.data import files


def located(section: Section, registry: Registry, config: Path) -> Section:
    """The same with the absolute paths of its files, where it names some.

    Marks say what is a file: ``path=True`` the name after its colon, ``files`` these arguments.

    Args:
      section: of a config.
      registry: in which its name stands.
      config: the file that it stands in.
    """
    if section.imported:
        return section
    facts = next(x.facts for x in registry.values() if fnmatchcase(section.name, x.name))
    given = {k: x for k in facts.get("files", ()) if (x := getattr(section.value, k)) is not None}
    if given:
        found = {k: files.located(x, config) for k, x in given.items()}
        section = replace(section, value=replace(section.value, **found))
    if facts.get("path"):
        prefix, _, path = section.name.partition(":")
        section = replace(section, name=f"{prefix}:{files.located(path, config)}")
    return section
