"""``dst --help`` without the libraries of the command line: the commands, and what to install.

Commands are read from the source of their files, one command per file, named as the file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources

from dst.core import extras


def text(error: extras.Missing) -> str:
    """The help.

    Args:
      error: what is missing, with what to install.
    """
    commands = dict(_commands())
    width = max(map(len, commands))
    lines = "\n".join(f"  {name:{width}}  {words}" for name, words in sorted(commands.items()))
    return (
        "Usage: dst [OPTIONS] COMMAND [ARGS]...\n\n  Dynamic sparse training in JAX.\n\n"
        "Options:\n  --version   Print the version.\n  -h, --help  Show this message and exit.\n\n"
        f"Commands:\n{lines}\n\nThe library works as it is. For the commands {error}"
    )


def _commands() -> Iterator[tuple[str, str]]:
    for file in resources.files("dst.cli").iterdir():
        name, _, suffix = file.name.partition(".")
        if suffix != "py":
            continue
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                yield name, (ast.get_docstring(node) or "").partition("\n\n")[0]
