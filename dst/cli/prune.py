"""``dst prune``: from a pretrained model to a pruned one with its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.exits import BAD_INPUT, DONE, INTERRUPTED, fail
from dst.cli.parameters import windows as parsed
from dst.core.text import shown

EPILOG = """Exit codes: 0 done; 1 failed; 2 bad input; 130 interrupted. Whatever stopped it, the
same command goes on after the last finished stage."""

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model directory or a GGUF file.")]
Method = Annotated[
    str,
    typer.Option(
        help="A one-shot method: magnitude, wanda, sparsegpt, 'sparsegpt(mask=wanda)', obert."
    ),
]
Sparsity = Annotated[
    float | None, typer.Option(help="Of the pruned matrices, in [0, 1). N:M has its own.")
]
Pattern = Annotated[str | None, typer.Option("--structure", metavar="N:M", help="Such as 2:4.")]
Allocation = Annotated[
    str, typer.Option(help="uniform, erk, owl, ecoflap, 'evopress(generations=50)'.")
]
Text = Annotated[
    str,
    typer.Option(
        "--calibration",
        metavar="TEXT",
        help="topics, stdlib, or a pattern of text files; a part of it judges the model.",
    ),
]
Windows = Annotated[str, typer.Option(metavar="NxLENGTH", help="Pieces of text, tokens in each.")]
Seed = Annotated[int, typer.Option(help="Of the pieces that calibrate.")]
Select = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Leaves to prune; '!PATTERN' takes out; may be repeated."),
]
Preserve = Annotated[bool, typer.Option("--preserve", help="Zeros stay zero.")]
Blocks = Annotated[
    str, typer.Option(help="auto, or matrix: each matrix sees the pruned ones before it.")
]
Curve = Annotated[
    str | None,
    typer.Option(
        metavar="S,S,...",
        help="Prune to each of these sparsities and draw the quality; no model is written.",
    ),
]
Plan = Annotated[bool, typer.Option("--plan", help="Print the stages; prune nothing.")]
Out = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="pruned/<model>-<method> unless given.")
]


def prune(
    model: Model,
    method: Method = "wanda",
    sparsity: Sparsity = None,
    structure: Pattern = None,
    allocation: Allocation = "uniform",
    calibration: Text = "topics",
    windows: Windows = "32x256",
    seed: Seed = 0,
    select: Select = None,
    preserve: Preserve = False,
    blocks: Blocks = "auto",
    curve: Curve = None,
    plan: Plan = False,
    directory: Out = None,
) -> int:
    """Prune a pretrained language model with calibration text."""
    from dst.studies.pruning.settings import Settings

    try:
        count, length = parsed(windows)
        if count is None:
            raise ValueError("windows: calibration takes a number of them, such as 32x256.")
        points = _shares(curve) if curve is not None else []
        settings = Settings(
            model,
            method,
            points[0] if points else sparsity,
            structure,
            allocation,
            calibration,
            (count, length),
            seed,
            tuple(select or ()),
            preserve,
            blocks,
        )
        from dst.studies import pruning  # only now: this loads Flax

        if plan:
            print(pruning.Job(settings).plan())
            return DONE
        out = directory or Path("pruned") / f"{Path(model).stem}-{method.partition('(')[0]}"
        if points:
            print(pruning.curve_table(pruning.curve(settings, points, out, _say)))
        else:
            print(pruning.table(pruning.run(settings, out, _say)))
            print(f"model: {out}")
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        return fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on after the last stage", INTERRUPTED)
    print(f"report: {out / 'report.html'}")
    return DONE


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _shares(text: str) -> list[float]:
    try:
        return [float(x) for x in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"curve must be sparsities such as 0.3,0.5,0.7, got {shown(text)}."
        ) from error
