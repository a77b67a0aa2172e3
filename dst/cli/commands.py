"""What the commands of ``dst`` do; each returns its exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
RESUME = 75  # EX_TEMPFAIL of sysexits.h: try again


def train(args: argparse.Namespace) -> int:
    from dst.train.config import run as config
    from dst.train.config.lint import advice
    from dst.train.distributed import processes as hosts
    from dst.train.records import run_dir as directory
    from dst.train.records import wandb as weights_and_biases

    found = config.load(args.config, [*weights_and_biases.from_agent(), *args.overrides])
    where = args.dir or Path("runs") / weights_and_biases.own_name(found.name)
    hosts.join(found.hosts)
    hosts.decided(lambda: directory.check_free(where, args.overwrite))
    for warning in advice(found) if hosts.first() else ():
        print(f"warning: {warning}", file=sys.stderr)
    source = config.source(args.config, args.overrides)
    return _run(where, source, lambda loop: loop.train(found, where, overwrite=args.overwrite))


def inspect(args: argparse.Namespace) -> int:
    from dst.train.config import run as config

    found = config.load(args.config, args.overrides)
    from dst.train import setup  # loads Flax, for a config that is known to be good

    try:
        costs = setup.make(found).costs()
    except setup.SetupError as error:
        return fail(f"{config.source(args.config, args.overrides)}: {error}", BAD_INPUT)
    print(json.dumps(costs.to_dict(), indent=2) if args.json else costs)
    return 0


def lottery(args: argparse.Namespace) -> int:
    from dst.studies.lottery import config
    from dst.train.config.run import source
    from dst.train.records import run_dir as directory

    found = config.load(args.config, args.overrides)
    if found.config.hosts.coordinator is not None:
        return fail("hosts.coordinator must be null: a study runs in one process", BAD_INPUT)
    where = args.dir or Path("runs") / found.config.name
    directory.check_free(where, args.overwrite)
    return _study(
        where,
        source(args.config, args.overrides),
        lambda study: study.run(found, where, overwrite=args.overwrite),
    )


def _study(where: Path, source: str, start: Callable[[Any], Any]) -> int:
    from dst.studies.lottery import study

    code = _guarded(where, source, lambda: print(f"\n{study.table(start(study))}"))
    return code or _write_report(where)


def resume(args: argparse.Namespace) -> int:
    from dst.train.records import run_dir as directory

    directory.check_run(args.run)
    source = str(args.run / directory.CONFIG)
    if not _is_study(args.run):
        return _run(
            args.run,
            source,
            lambda loop: loop.resume(args.run, args.overrides, changed=args.changed),
        )
    if args.overrides:
        return fail(
            f"{args.run} is a study, and its runs share one config. Start a new one to change "
            f"{args.overrides[0]!r}.",
            BAD_INPUT,
        )
    return _study(args.run, source, lambda study: study.resume(args.run))


def _run(where: Path, source: str, start: Callable[[Any], Any]) -> int:
    # Only now, with a config that is known to be good: this loads Flax and Orbax.
    from dst.train import loop
    from dst.train.distributed import processes as hosts

    code = _guarded(where, source, lambda: start(loop))
    return code or hosts.decided(lambda: _write_report(where))


def _guarded(where: Path, source: str, run: Callable[[], Any]) -> int:
    from dst.train.distributed import processes as hosts
    from dst.train.loop import Diverged, Stopped
    from dst.train.records.checkpoint import CheckpointError
    from dst.train.setup import SetupError

    try:
        run()
    except SetupError as error:
        return fail(f"{source}: {error}", BAD_INPUT)
    except Diverged as error:
        return fail(error, FAILED)
    except CheckpointError as error:
        return fail(f"{error}\nOnce it can be written, `dst resume {where}` continues.", FAILED)
    except Stopped as reason:
        if hosts.first():
            print(f"{reason}; `dst resume {where}` continues", file=sys.stderr)
        return RESUME
    return 0


def sweep(args: argparse.Namespace) -> int:
    from dst.studies import sweep
    from dst.train.distributed.signals import Stopped

    found = sweep.load(args.file)
    where = args.dir or Path("runs") / found.name
    try:
        results = sweep.run(
            found,
            where,
            engine=args.engine,
            workers=args.workers,
            batch=args.lanes,
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


def launch(args: argparse.Namespace) -> int:
    from dst.train.distributed.launch import launch

    if args.arguments[:1] not in (["train"], ["resume"]):
        found = args.arguments[0] if args.arguments else "nothing"
        return fail(
            f"dst launch: expected train or resume with its arguments, got {found}", BAD_INPUT
        )
    for name in ("processes", "devices_per_process"):
        if (found := getattr(args, name)) is not None and found < 1:
            option = f"--{name.replace('_', '-')}"
            return fail(f"dst launch: {option} must be at least 1, got {found}", BAD_INPUT)
    return launch(args.arguments, args.processes, args.devices_per_process)


def report(args: argparse.Namespace) -> int:
    from dst.report import collect

    collect.check(args.paths, args.out)
    if len(args.paths) == 1 and not collect.is_sweep(args.paths[0]):
        return _write_report(args.paths[0], args.out)
    for path in args.paths:
        if _is_study(path):
            return fail(f"{path} is a study: `dst report {path}` shows it alone", BAD_INPUT)
    return _compare(args.paths, args.out)


def _compare(paths: Sequence[Path], out: Path | None = None) -> int:
    from dst.report import many

    print(f"report: {many.write_report(paths, out)}")
    return 0


def _write_report(where: Path, out: Path | None = None) -> int:
    if _is_study(where):
        from dst.studies.lottery import report as room
    else:
        from dst.report import run as room  # type: ignore[no-redef]

    print(f"report: {room.write_report(where, out=out)}")
    return 0


def _is_study(where: Path) -> bool:
    from dst.studies.lottery.config import is_study

    return is_study(where)


def methods(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from dst.train.config.run import METHOD
    from dst.train.config.schema import defaults, paragraphs

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


def schema(args: argparse.Namespace) -> int:
    from dst.studies.lottery.config import KEY
    from dst.studies.lottery.config import json_schema as lottery
    from dst.train.config.run import Config
    from dst.train.config.schema import json_schema

    found = json_schema(Config)
    found["properties"][KEY] = lottery()
    print(json.dumps(found, indent=2))
    return 0


def fail(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
