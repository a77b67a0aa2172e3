"""The application ``dst COMMAND``: its commands, and what it says to arguments it does not know."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from dst import __version__
from dst.cli import (
    continual,
    eval,
    exits,
    init,
    inspect,
    launch,
    lottery,
    methods,
    prune,
    report,
    resume,
    robustness,
    schema,
    sweep,
    train,
)
from dst.core.text import masked

# Plain text, not boxes: the site shows the same help, and no command loads rich to print it.
app = typer.Typer(
    help="Dynamic sparse training in JAX.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(__version__)
        raise typer.Exit()
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Options of ``dst`` itself."""


def _add(command: Callable[..., int], epilog: str | None = None, **settings: bool) -> None:
    """Adds a command under the name of its function; its docstring is the help."""
    app.command(epilog=epilog, context_settings=settings)(exits.guarded(command))


_add(train.train, exits.CODES)
_add(resume.resume, exits.CODES)
_add(sweep.sweep, "Exit codes: as for train; 1 also where a trial has failed.")
_add(lottery.lottery, exits.CODES)
_add(continual.continual, exits.CODES)
# What follows train or resume belongs to them, options included.
_add(launch.launch, exits.CODES, allow_interspersed_args=False)
_add(prune.prune, prune.EPILOG)
_add(init.init)
_add(inspect.inspect)
_add(eval.eval)
_add(robustness.robustness)
_add(report.report, report.EPILOG)
_add(methods.methods)
_add(schema.schema)


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    command = typer.main.get_command(app)
    try:
        return command.main(list(arguments), prog_name="dst", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error, arguments)


def _refuse(error: typer.TyperException, arguments: Sequence[str]) -> int:
    """Says what is wrong with the arguments, what was expected and found, and what to do."""
    context = getattr(error, "ctx", None)
    name = context.command_path if context else "dst"
    lines = [f"{name}: {error.format_message()}"]
    if context:
        lines.append(f"expected: {context.get_usage().removeprefix('Usage: ')}")
    lines.append(f"found: {masked(shlex.join(['dst', *arguments]))}")
    lines.append(f"`{name} --help` describes the arguments.")
    return exits.fail("\n".join(lines), exits.BAD_INPUT)
