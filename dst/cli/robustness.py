"""``dst robustness``: a trained classifier under attacks and corrupted inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from dst.cli.exits import BAD_INPUT, DONE, fail
from dst.cli.progress import line
from dst.core import checks
from dst.core.files import finite
from dst.core.text import aligned

if TYPE_CHECKING:
    from dst.train.attacks import Ball
    from dst.train.config.run import Config
    from dst.train.data.dataset import Dataset

RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run directory of a classifier.")
]
Epsilon = Annotated[
    float | None,
    typer.Option(help="Radius of the attacks; that of objective adversarial unless given."),
]
Norm = Annotated[str | None, typer.Option(metavar="linf|l2", help="Of perturbations; linf.")]
Clip = Annotated[
    str | None, typer.Option(metavar="LOW,HIGH", help="Range of raw inputs; none unless given.")
]
Mean = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="By which the data set normalised; 0.")
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS", help="The same; 1. Radius and range are in units of raw inputs."
    ),
]
Steps = Annotated[int, typer.Option(help="Of PGD.")]
StepSize = Annotated[
    float | None, typer.Option("--step-size", help="Of PGD; 2.5 epsilon / steps unless given.")
]
Restarts = Annotated[int, typer.Option(help="Of PGD; an answer must be right in all.")]
Farthest = Annotated[
    float | None,
    typer.Option(help="Largest radius in search of the adversarial distance; 10 epsilon."),
]
Examples = Annotated[int, typer.Option(help="Test examples, evenly spread; all if fewer.")]
Seed = Annotated[int, typer.Option(help="Of starts and noise.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def robustness(
    run: RunDirectory,
    epsilon: Epsilon = None,
    norm: Norm = None,
    clip: Clip = None,
    mean: Mean = None,
    std: Std = None,
    steps: Steps = 20,
    step_size: StepSize = None,
    restarts: Restarts = 5,
    farthest: Farthest = None,
    examples: Examples = 1000,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Show a run's accuracy under attacks and corruptions."""
    from dst.eval import robustness as judging
    from dst.train import Run, data, objectives

    found = Run(run)
    config = found.config
    try:
        checks.integer("examples", examples, at_least=1)
        checks.integer("seed", seed, at_least=0)
        dataset = data.load(config.data, objectives.label_kind(config.objective))
        _check(config, dataset)
        given = {"clip": clip, "mean": mean, "std": std}
        numbers = {name: _numbers(name, text) for name, text in given.items() if text is not None}
        ball = _ball(config, {"epsilon": epsilon, "norm": norm, **numbers})
        count = len(dataset.test)
        inputs, labels = dataset.test.take(
            np.linspace(0, count - 1, min(examples, count)).astype(int)
        )
        ball.check(inputs)
        model = found.model(attach_masks=False)
        with line("robustness") as progress:
            figures = judging.judge(
                model,
                inputs,
                labels,
                ball,
                steps=steps,
                step_size=step_size,
                restarts=restarts,
                farthest=farthest,
                seed=seed,
                progress=progress,
            )
    except ValueError as error:
        return fail(error, BAD_INPUT)
    shown: dict[str, Any] = {"run": str(run), "step": found.step, **asdict(ball)}
    shown |= {"steps": steps, "restarts": restarts, **asdict(figures)}
    shown |= {"distance": figures.distance, "distances": figures.distances.tolist()}
    print(json.dumps(finite(shown), indent=2) if as_json else _table(shown))
    return DONE


def _check(config: Config, dataset: Dataset) -> None:
    """Raises unless a run is one of a classifier whose inputs can be attacked."""
    from dst.train import objectives

    name = dataset.objective if config.objective is None else config.objective.name
    if name in ("next-token", "distillation"):
        raise ValueError(
            "the run is one of a language model, whose tokens cannot be changed a little. "
            "`dst eval` judges language models."
        )
    if objectives.learned(config.objective, dataset.objective) not in (None, "class"):
        raise ValueError(f"attacks need a classifier, but the objective of the run is {name}.")
    if not np.issubdtype(dataset.dtype, np.floating):
        raise ValueError(
            f"attacks need inputs that are real numbers, but those of the run are {dataset.dtype}: "
            "tokens or categories, which cannot be changed a little."
        )


def _ball(config: Config, given: dict[str, Any]) -> Ball:
    """The ball of the options, and of the objective where it is adversarial."""
    from dst.train.attacks import Ball
    from dst.train.objectives.adversarial import Adversarial

    section = config.objective
    own = section.value if section is not None and not section.imported else None
    chosen = {name: value for name, value in given.items() if value is not None}
    if isinstance(own, Adversarial):
        return Ball(**{**asdict(own.ball), **chosen})
    if "epsilon" not in chosen:
        raise ValueError(
            "--epsilon is needed, since the run was not trained by objective adversarial: "
            "--epsilon 0.1 allows a tenth of what the data set was divided by."
        )
    return Ball(**chosen)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise ValueError(f"--{name} must be numbers such as 0,1, got {text!r}.") from error


def _table(found: dict[str, Any]) -> str:
    """A row per figure, and what the attacks were."""
    rows: list[Sequence[str]] = [["", "accuracy"], ["clean", f"{found['accuracy']:.4f}"]]
    rows += [["FGSM", f"{found['fgsm']:.4f}"], ["PGD", f"{found['pgd']:.4f}"]]
    rows += [[name, f"{value:.4f}"] for name, value in found["corrupted"].items()]
    norm = {"linf": "L-infinity", "l2": "L2"}[found["norm"]]
    return "\n".join(
        [
            *aligned(rows),
            f"calibration error {found['calibration_error']:.4f}, over 15 bins",
            f"median adversarial distance {found['distance']:.4g}",
            f"{found['examples']} test examples; {norm}, epsilon {found['epsilon']:g}; PGD of "
            f"{found['steps']} steps, {found['restarts']} restarts",
        ]
    )
