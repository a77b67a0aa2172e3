"""The runs of a sequence of tasks: the config of each, where it starts, and who judges it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dst
from dst.core.patterns import chosen, require_matches
from dst.studies import runs
from dst.studies.continual.config import Study
from dst.studies.continual.tasks import classes_of, task
from dst.train import data, setup
from dst.train.config.run import DATA, METHOD, OBJECTIVE, Config
from dst.train.config.schema import Section
from dst.train.config.warm_start import Start

Weights = dict[str, np.ndarray]  # by leaf path
DENSE: Section = METHOD.read("dense", "method")
# Any method by whose plan it is known which leaves can have masks.
_SOME: Section = METHOD.read({"name": "static", "sparsity": 0.5}, "method")


@dataclass(frozen=True)
class Learned:
    """What a task has left behind.

    Attributes:
      run: the directory of its last run.
      figures: of that run.
      weights: the weights in use for the test examples of a task, by its number.
    """

    run: Path
    figures: Mapping[str, Any]
    weights: Callable[[int], Weights]


def name_of(number: int) -> str:
    """The run of a task."""
    return f"task-{number:02d}"


def masks_of(where: Path, number: int) -> Path:
    """The file of the masks of a task."""
    return where / f"masks-{number:02d}.safetensors"


def once(file: Path, write: Callable[[Path], None]) -> None:
    """Writes a file that a study keeps, unless it is there."""
    if not file.is_file():
        write(file)


class Tasks:
    """The tasks of a study.

    Args:
      study: the whole.

    Attributes:
      maskable: the leaves that can have masks, with their number of stacked axes.
      paths: all leaves.

    Raises:
      SetupError: tasks that the data set or the network cannot have.
    """

    def __init__(self, study: Study):
        self.study, self.config, self.settings = study, study.config, study.continual
        self._judges: dict[int, runs.Judge] = {}
        pieces = setup.make(replace(self.config, method=_SOME))
        self.paths = [leaf.path for leaf in pieces.plan.leaves]
        self.maskable = {path: x.leaf.stacked for path, x in pieces.plan.sparse.items()}
        carried = jax.tree.leaves(pieces.begin().variables)
        if any(jnp.issubdtype(x.dtype, jnp.floating) for x in carried):
            if not self.config.train.recalibrate:
                raise setup.SetupError(
                    "train.recalibrate must be above 0 for a network with BatchNorm, whose running "
                    "statistics would be those of another task, got 0."
                )
        for number in self.numbers:
            try:
                data.load(self.run(number, name_of(number)).data)
            except ValueError as error:
                raise setup.SetupError(f"task {number}: {error}") from error

    @property
    def numbers(self) -> range:
        """Of all tasks, from 1."""
        return range(1, self.settings.tasks + 1)

    @cached_property
    def _outputs(self) -> int:
        return data.load(self.config.data).classes

    def classes(self, number: int) -> tuple[int, ...]:
        """The classes that a task has."""
        if self.settings.scenario == "domain":
            return tuple(range(self._outputs))
        try:
            return classes_of(self._outputs, self.settings.tasks, number)
        except ValueError as error:
            raise setup.SetupError(str(error)) from error

    def seed(self, number: int) -> int:
        """Of the batches and random choices of a task; that of the config for the first one."""
        return self.config.seed if number == 1 else runs.seed_of(self.config.seed, "task", number)

    def run(self, number: int, name: str, **changes: Any) -> Config:
        """The config of a run on the examples of a task, which keeps its last weights.

        Args:
          number: of the task.
          name: of the run.
          changes: fields of the config that differ.
        """
        config, settings = self.config, self.settings
        given = {
            "import": f"{task.__module__}:{task.__name__}",
            "batch_size": config.data.value.batch_size,
            "of": DATA.dump(config.data),
            "number": number,
            "tasks": settings.tasks,
            "scenario": settings.scenario,
            "seed": config.seed,
        }
        objective = config.objective
        if settings.scenario == "task":
            masked = {"name": "classification", "classes": list(self.classes(number))}
            objective = OBJECTIVE.read(masked, "objective")
        made = replace(
            config,
            name=f"{config.name}-{name}",
            data=DATA.read(given, "data"),
            objective=objective,
            seed=self.seed(number),
            **changes,
        )
        return replace(made, train=replace(made.train, snapshots=(made.train.steps,)))

    def judge(self, number: int) -> runs.Judge:
        """Who judges weights by the test examples of a task."""
        if number not in self._judges:
            plain = self.run(number, "judge", method=DENSE)
            self._judges[number] = runs.Judge(plain)
        return self._judges[number]

    def own(self, patterns: Sequence[str]) -> list[str]:
        """The leaves that each task has for itself.

        Raises:
          SetupError: a pattern that matches nothing, or no leaf is left to have a mask.
        """
        try:
            require_matches("continual.strategy.own", patterns, self.paths)
        except ValueError as error:
            raise setup.SetupError(str(error)) from error
        found = [path for path in self.paths if patterns and chosen(patterns, path)]
        if not self.maskable.keys() - set(found):
            raise setup.SetupError(
                "no leaf is left to have a mask. Use sparsify.select or continual.strategy.own."
            )
        return found

    def new_weights(self, number: int, path: Path) -> Weights:
        """The initial weights by the seed of a task, which a file keeps."""
        new = replace(self.config, method=DENSE, start=Start())
        runs.new_weights(new, self.seed(number), path)
        return dst.load_weights(path)
