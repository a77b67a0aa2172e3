"""The command line, ``dst COMMAND``: train, resume, sweep, lottery, launch, inspect, report,
methods, schema."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
RESUME = 75  # EX_TEMPFAIL of sysexits.h: try again

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
    if args.command in (_train, _inspect, _lottery, _resume):
        args.overrides += [x for x in rest if not x.startswith("-")]
        rest = [x for x in rest if x.startswith("-")]
    if rest:
        parser.error(f"unknown argument {rest[0]!r}")

    from dst.train.config import ConfigError
    from dst.train.directory import DirectoryError
    from dst.train.hosts import HostsError

    try:
        return args.command(args)
    except (ConfigError, DirectoryError, HostsError) as error:
        return _fail(error, BAD_INPUT)
    except ModuleNotFoundError as error:
        if (error.name or "dst").partition(".")[0] == "dst":
            raise
        return _fail(f"{error}. This command needs an extra: pip install 'dst-jax[all]'", BAD_INPUT)
    except OSError as error:  # no room, no permission: the message names the file
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; `dst resume` continues the run", INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dst", description="Dynamic sparse training in JAX.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, command, text in (
        ("train", _train, "train what a config describes"),
        ("lottery", _lottery, "lottery tickets, random search over masks, linear connectivity"),
    ):
        new = commands.add_parser(name, help=text, epilog=_CODES)
        new.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
        dotted = "dotted keys, YAML values"
        new.add_argument("overrides", nargs="*", metavar="key=value", help=dotted)
        new.add_argument("--dir", type=Path, help="run directory; runs/<name> unless given")
        new.add_argument("--overwrite", action="store_true", help="replace what is there")
        new.set_defaults(command=command)

    inspect = commands.add_parser("inspect", help="show a config's weights and costs; no training")
    inspect.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
    inspect.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(command=_inspect)

    resume = commands.add_parser(
        "resume", help="continue a run at its newest checkpoint", epilog=_CODES
    )
    resume.add_argument("run", type=Path, metavar="RUN_DIR")
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")
    resume.add_argument(
        "--changed",
        action="store_true",
        help="go on although what changes is more than devices, logging, intervals or checkpoints",
    )
    resume.set_defaults(command=_resume)

    sweep = commands.add_parser(
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
    sweep.set_defaults(command=_sweep)

    launch = commands.add_parser(
        "launch", help="train or resume in several processes on this machine", epilog=_CODES
    )
    launch.add_argument("-n", "--processes", type=int, required=True, metavar="N")
    launch.add_argument(
        "--devices-per-process", type=int, metavar="K", help="fake CPU devices, to try a run out"
    )
    launch.add_argument("arguments", nargs=argparse.REMAINDER, metavar="train|resume ...")
    launch.set_defaults(command=_launch)

    report = commands.add_parser(
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
    report.set_defaults(command=_report)

    commands.add_parser("methods", help="list the methods").set_defaults(command=_methods)
    commands.add_parser("schema", help="print the JSON Schema of configs").set_defaults(
        command=_schema
    )
    return parser


def _train(args: argparse.Namespace) -> int:
    from dst.train import config, directory, hosts, weights_and_biases
    from dst.train.advice import advice

    found = config.load(args.config, [*weights_and_biases.from_agent(), *args.overrides])
    where = args.dir or Path("runs") / weights_and_biases.own_name(found.name)
    hosts.join(found.hosts)
    hosts.decided(lambda: directory.check_free(where, args.overwrite))
    for warning in advice(found) if hosts.first() else ():
        print(f"warning: {warning}", file=sys.stderr)
    source = config.source(args.config, args.overrides)
    return _run(where, source, lambda loop: loop.train(found, where, overwrite=args.overwrite))


def _inspect(args: argparse.Namespace) -> int:
    from dst.train import config

    found = config.load(args.config, args.overrides)
    from dst.train import setup  # loads Flax, for a config that is known to be good

    try:
        costs = setup.make(found).costs()
    except setup.SetupError as error:
        return _fail(f"{config.source(args.config, args.overrides)}: {error}", BAD_INPUT)
    print(json.dumps(costs.to_dict(), indent=2) if args.json else costs)
    return 0


def _lottery(args: argparse.Namespace) -> int:
    from dst.lottery import config
    from dst.train import directory
    from dst.train.config import source

    found = config.load(args.config, args.overrides)
    if found.config.hosts.coordinator is not None:
        return _fail("hosts.coordinator must be null: a study runs in one process", BAD_INPUT)
    where = args.dir or Path("runs") / found.config.name
    directory.check_free(where, args.overwrite)
    return _study(
        where,
        source(args.config, args.overrides),
        lambda study: study.run(found, where, overwrite=args.overwrite),
    )


def _study(where: Path, source: str, start: Callable[[Any], Any]) -> int:
    from dst.lottery import study

    code = _guarded(where, source, lambda: print(f"\n{study.table(start(study))}"))
    return code or _write_report(where)


def _resume(args: argparse.Namespace) -> int:
    from dst.train import directory

    directory.check_run(args.run)
    source = str(args.run / directory.CONFIG)
    if not _is_study(args.run):
        return _run(
            args.run,
            source,
            lambda loop: loop.resume(args.run, args.overrides, changed=args.changed),
        )
    if args.overrides:
        return _fail(
            f"{args.run} is a study, and its runs share one config. Start a new one to change "
            f"{args.overrides[0]!r}.",
            BAD_INPUT,
        )
    return _study(args.run, source, lambda study: study.resume(args.run))


def _run(where: Path, source: str, start: Callable[[Any], Any]) -> int:
    # Only now, with a config that is known to be good: this loads Flax and Orbax.
    from dst.train import hosts, loop

    code = _guarded(where, source, lambda: start(loop))
    return code or hosts.decided(lambda: _write_report(where))


def _guarded(where: Path, source: str, run: Callable[[], Any]) -> int:
    from dst.train import hosts
    from dst.train.checkpoint import CheckpointError
    from dst.train.loop import Diverged, Stopped
    from dst.train.setup import SetupError

    try:
        run()
    except SetupError as error:
        return _fail(f"{source}: {error}", BAD_INPUT)
    except Diverged as error:
        return _fail(error, FAILED)
    except CheckpointError as error:
        return _fail(f"{error}\nOnce it can be written, `dst resume {where}` continues.", FAILED)
    except Stopped as reason:
        if hosts.first():
            print(f"{reason}; `dst resume {where}` continues", file=sys.stderr)
        return RESUME
    return 0


def _sweep(args: argparse.Namespace) -> int:
    from dst import sweep
    from dst.train.signals import Stopped

    found = sweep.load(args.file)
    where = args.dir or Path("runs") / found.name
    try:
        results = sweep.run(
            found,
            where,
            engine=args.engine,
            workers=args.workers,
            lanes=args.lanes,
            storage=args.storage,
        )
    except Stopped as reason:
        print(f"{reason}; the same command continues", file=sys.stderr)
        return RESUME
    failed = [x for x in results["trials"] if x["state"] == "failed"]
    for trial in failed:
        print(f"error: trial {trial['number']}: {trial['error']}", file=sys.stderr)
    if results["best"] is not None:
        best = results["trials"][results["best"]]
        print(
            f"best: trial {best['number']}, {results['metric']} {best['value']:.6g}, "
            f"{' '.join(best['overrides'])}"
        )
    print(f"results: {where / sweep.RESULTS}")
    _compare([where])
    return FAILED if failed else 0


def _launch(args: argparse.Namespace) -> int:
    from dst.train.launch import launch

    if args.arguments[:1] not in (["train"], ["resume"]):
        found = args.arguments[0] if args.arguments else "nothing"
        return _fail(
            f"dst launch: expected train or resume with its arguments, got {found}", BAD_INPUT
        )
    for name in ("processes", "devices_per_process"):
        if (found := getattr(args, name)) is not None and found < 1:
            option = f"--{name.replace('_', '-')}"
            return _fail(f"dst launch: {option} must be at least 1, got {found}", BAD_INPUT)
    return launch(args.arguments, args.processes, args.devices_per_process)


def _report(args: argparse.Namespace) -> int:
    from dst.report import collect

    collect.check(args.paths, args.out)
    if len(args.paths) == 1 and not collect.is_sweep(args.paths[0]):
        return _write_report(args.paths[0], args.out)
    for path in args.paths:
        if _is_study(path):
            return _fail(f"{path} is a study: `dst report {path}` shows it alone", BAD_INPUT)
    return _compare(args.paths, args.out)


def _compare(paths: Sequence[Path], out: Path | None = None) -> int:
    from dst.report import many

    print(f"report: {many.write_report(paths, out)}")
    return 0


def _write_report(where: Path, out: Path | None = None) -> int:
    if _is_study(where):
        from dst.lottery import report as room
    else:
        from dst.report import run as room  # type: ignore[no-redef]

    print(f"report: {room.write_report(where, out=out)}")
    return 0


def _is_study(where: Path) -> bool:
    from dst.lottery.config import found_in

    return found_in(where)


def _methods(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from dst.train.config import METHOD
    from dst.train.schema import defaults, paragraphs

    table = Table("name", "paper", "hyper-parameters", "checked against", show_lines=True)
    for name, option in METHOD.options.items():
        about = paragraphs(option.type) | paragraphs(option.about)
        table.add_row(
            name,
            " ".join(about.get("References", "").split()),
            ", ".join(f"{k}={v}" for k, v in defaults(option).items()),
            " ".join(about.get("Checked against", "").split()),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


def _schema(args: argparse.Namespace) -> int:
    from dst.lottery.config import KEY
    from dst.lottery.config import json_schema as lottery
    from dst.train.config import Config
    from dst.train.schema import json_schema

    found = json_schema(Config)
    found["properties"][KEY] = lottery()
    print(json.dumps(found, indent=2))
    return 0


def _fail(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
