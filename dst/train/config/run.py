"""A run as data: a YAML file, validated into frozen dataclasses before anything heavy is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from dst import models
from dst.core import checks
from dst.core.registry import Registry
from dst.core.text import short, shown
from dst.methods import METHODS, SETTINGS
from dst.rules.latent import Latent
from dst.rules.rule import Rule
from dst.train import data as data_sets
from dst.train import objectives, optimizer
from dst.train.config import doors, plain_data, recipes, schema, signatures, suggestions
from dst.train.config.locations import located
from dst.train.config.schema import Choice, Option, Section
from dst.train.config.sections import Mesh, Sparsify, Train, Wandb
from dst.train.config.warm_start import FixedMasks, Start
from dst.train.distributed.processes import Hosts


class ConfigError(ValueError):
    """A config that cannot be run: the file, the key, what was expected, what was found."""


_OF_MODELS = ("shape", "classes", "rngs")  # what the program passes to a network


def _options(registry: Registry) -> dict[str, Option]:
    """The options of a package whose things are dataclasses."""
    return {
        name: Option(entry.load(), words=not entry.facts.get("path"))
        for name, entry in registry.items()
    }


def _factories(
    registry: Registry, offers: tuple[str, ...], shared: type | None = None
) -> dict[str, Option]:
    """The options of a package whose things are called with their arguments."""
    return {
        name: Option(signatures.arguments_of(entry, offers, shared), load=entry.load)
        for name, entry in registry.items()
    }


MODEL = Choice(_factories(models.REGISTRY, _OF_MODELS), offers=_OF_MODELS)
DATA = Choice(_options(data_sets.REGISTRY), offers=(), shared=data_sets.Shared)
OPTIMIZER = Choice(
    _factories(optimizer.REGISTRY, optimizer.OFFERS, optimizer.Optimizer),
    offers=optimizer.OFFERS,
    shared=optimizer.Optimizer,
)
LOGGER = Choice({}, offers=("config", "where", "start"))
OBJECTIVE = Choice(_options(objectives.REGISTRY), offers=objectives.OFFERS)
METHOD = Choice(
    # Masks that are arrays have no place in YAML: there, they come from the file of start.masks.
    {name: Option(cls) for name, cls in METHODS.items()}
    | {"from_masks": Option(FixedMasks)}
    | {
        name: Option(preset.method, preset.settings, about=preset.make)
        for name, preset in SETTINGS.items()
    },
    offers=(),
)
_DOORS = {
    "model": MODEL,
    "data": DATA,
    "method": METHOD,
    "objective": OBJECTIVE,
    "optimizer": OPTIMIZER,
}
_LONGEST_NAME = 100
# Sections that are no part of one run, and the commands that read them.
_OF_OTHERS = {"lottery": "dst lottery", "continual": "dst continual"}


@dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
      name: of the run; its directory is runs/<name> unless `--dir` is given.
      model: the architecture.
      data: the data set and how it is read.
      method: the sparse training method.
      optimizer: what the method wraps.
      train: length and intervals.
      seed: of weights, connections and batches.
      start: weights, masks and step to begin with.
      sparsify: which weights are sparse.
      wandb: logging to Weights & Biases.
      mesh: devices.
      hosts: processes, on one machine or several.
      loggers: further loggers, each by import path.
      objective: what training minimises; null: what the data set asks for.
      recipe: fills in, in a file, what is not set in `sparsify` and `method`: the literature's
        values for a family of networks. See dst/train/config/recipes.py.
    """

    name: str
    model: Annotated[Section, MODEL]
    data: Annotated[Section, DATA]
    method: Annotated[Section, METHOD]
    optimizer: Annotated[Section, OPTIMIZER]
    train: Train
    seed: int = 0
    start: Start = Start()
    sparsify: Sparsify = Sparsify()
    wandb: Wandb = Wandb()
    mesh: Mesh = Mesh()
    hosts: Hosts = Hosts()
    objective: Annotated[Section | None, OBJECTIVE] = None
    loggers: tuple[Annotated[Section, LOGGER], ...] = ()
    recipe: Literal["mlp", "resnet", "vit", "decoder"] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        checks.integer("seed", self.seed, at_least=0, at_most=2**32 - 1)
        self._check_inputs()
        batch, parts = self.data.value.batch_size, self.optimizer.value.accumulate
        if batch % parts:
            raise ValueError(
                f"data.batch_size must be a multiple of optimizer.accumulate={parts}, got {batch}."
            )
        _check_schedule(self.rule(), self.train.steps)
        self._check_start()

    def _check_inputs(self) -> None:
        """Networks of tokens and of images do not mix; things of the user's own may."""
        if self.model.imported or self.data.imported:
            return
        kinds = {name: x.facts.get("inputs") for name, x in models.REGISTRY.items()}
        wanted = data_sets.REGISTRY[DATA.entry(self.data.name) or ""].facts.get("inputs")
        if kinds[self.model.name] != wanted:
            fit = [name for name, kind in kinds.items() if kind == wanted]
            raise ValueError(
                f"model.name must be one of {fit} for data {shown(self.data.name)}, "
                f"got {shown(self.model.name)}."
            )

    def _check_start(self) -> None:
        start, steps = self.start, self.train.steps
        if start.step >= steps:
            raise ValueError(
                f"start.step must lie before the end of training at {steps}, got {start.step}."
            )
        if start.step and self.rule().when is not None:
            raise ValueError(
                f"start.step must be 0 with method {self.method.name!r}, whose topology steps are "
                f"counted from the start of a run, got {start.step}. Only fixed masks can go on."
            )
        if start.trained and (isinstance(self.rule(), Latent) or self.rule().when is not None):
            raise ValueError(
                f"start.trained must be null with method {self.method.name!r}, whose masks change: "
                "what it drops would be lost. Only the weights of fixed masks can be frozen."
            )
        if self.method.name == "from_masks" and start.masks is None:
            raise ValueError(
                "start.masks must be a safetensors file for method 'from_masks', got None."
            )

    def rule(self) -> Rule | Latent:
        """The rule of the method, its durations resolved by the length of training."""
        return self._rule

    @cached_property
    def _rule(self) -> Rule | Latent:
        method = self.method.make()
        if not callable(getattr(method, "rule", None)):
            raise ValueError(
                f"method.import: {self.method.name} must give an object with rule(steps), as the "
                f"methods of dst have it, got {type(method).__name__}."
            )
        try:
            return method.rule(self.train.steps)
        except ValueError as error:
            raise ValueError(f"method: {error}") from error


def check_name(name: Any) -> None:
    """Raises ValueError unless a text can name the directory of a run or a sweep."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            f"name must be letters, digits, '_', '-' and '.', since it names a directory, "
            f"got {shown(name)}."
        )
    if len(name) > _LONGEST_NAME:
        raise ValueError(
            f"name must have at most {_LONGEST_NAME} characters, since it names a directory, "
            f"got {len(name)}."
        )


def _check_schedule(rule: Rule | Latent, steps: int) -> None:
    if isinstance(rule, Latent) and rule.stages and rule.stages[-1] >= steps:
        raise _not_reached(rule.stages[-1], steps)
    when = rule.when
    if when is None:
        return
    if isinstance(rule, Rule):  # others have no tables
        try:
            when.check_length()
        except ValueError as error:
            raise ValueError(f"method: {error}") from error
    if when.first >= steps:
        raise ValueError(
            f"method: the schedule never fires: the first topology step would be {when.first}, "
            f"training has {steps} steps. Lower `every` or `start`, or raise train.steps."
        )
    if rule.sparsity_changes and when.last >= steps:
        raise _not_reached(when.last, steps)


def _not_reached(last: int, steps: int) -> ValueError:
    return ValueError(
        f"method: the final sparsity would not be reached: it is there after step {last}, training "
        f"has {steps} steps, counted from 0. Let the method finish earlier (its `stop`, `prune` or "
        "`rounds`), or raise train.steps."
    )


def load(path: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Reads, merges and validates a config.

    Args:
      path: of a YAML 1.2 file; or what it would hold, whose files are looked for from here.
      overrides: ``key=value`` with dotted keys; values are YAML or Python literals, and mappings
        merge into what is there.

    Raises:
      ConfigError: with file, key, what was expected, what was found, and the nearest valid name.
    """
    name = "the config" if isinstance(path, Mapping) else os.fspath(path)
    try:
        return parse(merged(path, overrides), Path() if isinstance(path, Mapping) else name)
    except ValueError as error:
        raise ConfigError(f"{source(name, overrides)}: {error}") from error


def merged(path: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """A file, or what it would hold, with its overrides, as plain data.

    Where an override names another model, data set or method, the keys of the file that the new
    one does not have are left out: ``method=set`` takes the sparsity of a file for RigL along.

    Raises:
      ValueError: a file that cannot be read, or an override that is none.
    """
    base = path if isinstance(path, Mapping) else plain_data.read(Path(path))
    changes = [
        {k: {"name": v} if k in _DOORS and isinstance(v, str) else v for k, v in x.items()}
        for x in map(plain_data.override, overrides)
    ]
    data = plain_data.merged(base, *changes)
    for key, choice in _DOORS.items():
        before, after = (x.get(key) if isinstance(x, Mapping) else None for x in (base, data))
        if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
            continue
        own = {k for change in changes if isinstance(change.get(key), Mapping) for k in change[key]}
        if "import" in after and (own & {"name", "import"}) and not {"name", "import"} <= own:
            # Another thing: the keys of the file's one go with it.
            data = {**data, key: {k: v for k, v in after.items() if k in own}}
            continue
        option = choice.options.get(choice.entry(after.get("name")) or "")
        if option is None or after["name"] == before.get("name"):
            continue
        known = {"name"}
        if key != "model":  # of models, equal names mean different things
            known |= {f.name for f in fields(option.type)}
        data = {**data, key: {k: v for k, v in after.items() if k in known or k in own}}
    return data


def parse(data: Mapping[str, Any], path: str | Path) -> Config:
    """The config that plain data describes.

    Args:
      data: mappings, lists, strings, numbers, booleans, None.
      path: of the file that it comes from; files that it names are looked for there first.

    Raises:
      ValueError: with the key, what was expected, what was found, and the nearest valid name.
    """
    for key, command in _OF_OTHERS.items():
        if key in data:
            raise ValueError(
                f"{key} describes many runs, and this command makes one. Use `{command}`, or take "
                f"the key {shown(key)} out."
            )
    with doors.beside(Path(path)), suggestions.added(Config, data):
        config = schema.read(Config, recipes.filled(data, METHOD), "")
    path, objective = Path(path), config.objective
    return replace(
        config,
        model=located(config.model, models.REGISTRY, path),
        data=located(config.data, data_sets.REGISTRY, path),
        objective=None if objective is None else located(objective, objectives.REGISTRY, path),
        start=config.start.located(path),
    )


def enclosed(config: Config) -> tuple[Config, dict[str, str]]:
    """The config as it stands in its run directory, and the files to copy there, by new name."""
    start, files = config.start.enclosed()
    return replace(config, start=start, hosts=config.hosts.saved()), files


def source(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """Where a config comes from, for messages."""
    return f"{path} with {' '.join(map(short, overrides))}" if overrides else str(path)


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved config as plain data: every field, defaults included."""
    return schema.dump(Config, config)


def dump(config: Config) -> str:
    """The resolved config as YAML; :func:`load` reads it back."""
    return plain_data.to_yaml(to_dict(config))
