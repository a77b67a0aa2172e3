"""Pages made from what the package, the experiments and the notebooks say of themselves.

Everything is written below ``docs/generated``, and only where it differs from what is there, so
that a second build has little to do.
"""

from __future__ import annotations

import json
import os

import evidence
import reference
import typer
from links import GENERATED, ROOT, rewritten

from dst.cli import app as cli
from dst.methods import METHODS, PRESETS
from dst.train.config.run import METHOD


def write() -> None:
    """Writes all pages, and removes those of earlier builds that are none any more."""
    found = pages()
    for name, text in found.items():
        file = GENERATED / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    for file in GENERATED.rglob("*"):
        if file.is_file() and str(file.relative_to(GENERATED)) not in found:
            file.unlink()


def pages() -> dict[str, str]:
    """The text of every page, by its name below ``docs/generated``."""
    found = {
        "configuration.md": reference.page(),
        "recipes.md": reference.recipes(),
        "command-line.md": command_line(),
        "methods/index.md": methods(),
        "experiments/index.md": _index("Experiments", "experiments", evidence.titles()),
        "notebooks/index.md": _index("Notebooks", "notebooks", _notebook_titles()),
    }
    found |= {f"methods/{name}.md": method(name) for name in METHOD.options}
    found |= {f"experiments/{name}.md": _experiment(name) for name in evidence.titles()}
    found |= {f"notebooks/{name}.ipynb": _notebook(name) for name in _notebook_titles()}
    return found


def methods() -> str:
    """The table of all methods."""
    rows = ["| in Python | in a config | |", "|---|---|---|"]
    for name in METHOD.options:
        thing = reference.method_object(name)
        text = reference.cell(reference.summary(thing))
        rows.append(f"| [`dst.{thing.__name__}`]({name}.md) | `{name}` | {text} |")
    names = "\n".join(METHOD.options)
    table = "\n".join(rows)
    return (
        f"(methods)=\n# Methods\n\n```{{include}} ../../intro/methods.md\n```\n\n{table}\n\n"
        f"```{{toctree}}\n:hidden:\n:maxdepth: 1\n\n{names}\n```\n"
    )


def method(name: str) -> str:
    """The page of one method: its docstring, its settings in a config, what was measured."""
    thing = reference.method_object(name)
    kind = "autofunction" if name in PRESETS else "autoclass"
    parts = [
        f"(method-{name})=\n# {thing.__name__}",
        f"```{{eval-rst}}\n.. {kind}:: dst.{thing.__name__}\n```",
        f"## In a config\n\n{reference.method(name)}",
    ]
    if name not in PRESETS and METHODS[name] is not METHOD.options[name].type:
        parts.append(reference.summary(METHOD.options[name].type, whole=True))
    if measured := evidence.of(name):
        parts.append(f"## Measured\n\n{measured}")
    return "\n\n".join(parts) + "\n"


def command_line() -> str:
    """The help of every command."""
    os.environ |= {"COLUMNS": "88", "NO_COLOR": "1"}
    application = typer.main.get_command(cli.app)
    whole = application.make_context("dst", [], resilient_parsing=True)
    parts = ["(command-line)=\n# Command line", _help(whole)]
    for name, command in application.commands.items():
        context = command.make_context(name, [], parent=whole, resilient_parsing=True)
        parts.append(f"## dst {name}\n\n{_help(context)}")
    return "\n\n".join(parts) + "\n"


def _help(context: typer.Context) -> str:
    return f"```text\n{context.get_help().strip()}\n```"


def _index(title: str, folder: str, titles: dict[str, str]) -> str:
    head = f"({folder})=\n# {title}\n\n```{{include}} ../../intro/{folder}.md\n```\n\n"
    if not titles:
        return head + "There are none here yet.\n"
    rows = "\n".join(titles)
    return head + f"```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```\n"


def _experiment(name: str) -> str:
    return f"```{{include}} ../../../experiments/{name}/README.md\n```\n"


def _notebook_titles() -> dict[str, str]:
    return {x.stem: x.stem for x in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def _notebook(name: str) -> str:
    origin = ROOT / "notebooks" / f"{name}.ipynb"
    data = json.loads(origin.read_text(encoding="utf-8"))
    for cell in data["cells"]:
        if cell["cell_type"] == "markdown":
            text = rewritten("".join(cell["source"]), origin, GENERATED / "notebooks" / origin.name)
            cell["source"] = text.splitlines(keepends=True)
    return json.dumps(data, indent=1)
