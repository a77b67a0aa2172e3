"""The command line, ``dst COMMAND``: train, resume, sweep, lottery, launch, inspect, report,
methods, schema."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dst.cli import commands
from dst.cli.commands import BAD_INPUT, FAILED, INTERRUPTED

_CODES = """exit codes: 0 done; 1 failed; 2 bad input; 75 stopped by SIGTERM or SIGINT with a
checkpoint, `dst resume` continues (a second signal stops at once, without one); 130 interrupted
before training began."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 bad input, 75 to
    be resumed.

    Args:
      argv: arguments without the program's name; None: those of the process.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # Overrides may stand before, between and after options; argparse leaves the later ones over.
    if "overrides" in args:
        args.overrides += [x for x in rest if not x.startswith("-")]
        rest = [x for x in rest if x.startswith("-")]
    if rest:
        parser.error(f"unknown argument {rest[0]!r}")

    from dst.train.config.run import ConfigError
    from dst.train.distributed.processes import HostsError
    from dst.train.records.run_dir import DirectoryError

    try:
        return args.command(args)
    except (ConfigError, DirectoryError, HostsError) as error:
        return commands.fail(error, BAD_INPUT)
    except ModuleNotFoundError as error:
        if (error.name or "dst").partition(".")[0] == "dst":
            raise
        return commands.fail(
            f"{error}. This command needs an extra: pip install 'dst-jax[all]'", BAD_INPUT
        )
    except OSError as error:  # no room, no permission: the message names the file
        return commands.fail(error, FAILED)
    except KeyboardInterrupt:
        return commands.fail("interrupted; `dst resume` continues the run", INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dst", description="Dynamic sparse training in JAX.")
    names = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, command, text in (
        ("train", commands.train, "train what a config describes"),
        (
            "lottery",
            commands.lottery,
            "lottery tickets, random search over masks, linear connectivity",
        ),
    ):
        new = names.add_parser(name, help=text, epilog=_CODES)
        new.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
        dotted = "dotted keys, YAML values"
        new.add_argument("overrides", nargs="*", metavar="key=value", help=dotted)
        new.add_argument("--dir", type=Path, help="run directory; runs/<name> unless given")
        new.add_argument("--overwrite", action="store_true", help="replace what is there")
        new.set_defaults(command=command)

    inspect = names.add_parser("inspect", help="show a config's weights and costs; no training")
    inspect.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
    inspect.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(command=commands.inspect)

    resume = names.add_parser(
        "resume", help="continue a run at its newest checkpoint", epilog=_CODES
    )
    resume.add_argument("run", type=Path, metavar="RUN_DIR")
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")
    resume.add_argument(
        "--changed",
        action="store_true",
        help="go on although what changes is more than devices, logging, intervals or checkpoints",
    )
    resume.set_defaults(command=commands.resume)

    sweep = names.add_parser(
        "sweep",
        help="run the trials of a W&B sweep file, or go on with them",
        epilog="exit codes: as for train; 1 also where a trial has failed.",
    )
    sweep.add_argument("file", type=Path, metavar="FILE", help="a sweep in the format of W&B")
    sweep.add_argument("--dir", type=Path, help="its directory; runs/<name> unless given")
    sweep.add_argument(
        "--engine",
        choices=("processes", "vectorised"),
        default="processes",
        help="a process per trial; or one program for all that differ in numbers only",
    )
    sweep.add_argument("--workers", type=int, default=1, metavar="N", help="processes at a time")
    sweep.add_argument(
        "--lanes", type=int, default=16, metavar="N", help="trials in one program, at most"
    )
    sweep.add_argument(
        "--storage", metavar="URL", help="a database; a journal file in the directory unless given"
    )
    sweep.set_defaults(command=commands.sweep)

    launch = names.add_parser(
        "launch", help="train or resume in several processes on this machine", epilog=_CODES
    )
    launch.add_argument("-n", "--processes", type=int, required=True, metavar="N")
    launch.add_argument(
        "--devices-per-process", type=int, metavar="K", help="fake CPU devices, to try a run out"
    )
    launch.add_argument("arguments", nargs=argparse.REMAINDER, metavar="train|resume ...")
    launch.set_defaults(command=commands.launch)

    report = names.add_parser(
        "report",
        help="write the report of a run, a sweep, a study, or one that compares several runs",
        epilog="Reports are single HTML files that open offline. Those of sweeps and of several "
        "runs have their data beside them, as CSV.",
    )
    report.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="a directory that train, sweep or lottery wrote; several: runs and sweeps, compared",
    )
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="report.html in DIR unless given; of several, comparison.html here",
    )
    report.set_defaults(command=commands.report)

    names.add_parser("methods", help="list the methods").set_defaults(command=commands.methods)
    names.add_parser("schema", help="print the JSON Schema of configs").set_defaults(
        command=commands.schema
    )
    return parser
