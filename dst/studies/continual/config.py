"""A study of continual learning as data: the section ``continual`` beside an ordinary config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from dst.core import checks
from dst.core.text import shown
from dst.rules.latent import Latent
from dst.rules.schedule import Duration, duration, resolve
from dst.train.config import json_schema as schemas
from dst.train.config import plain_data, schema
from dst.train.config import run as runs
from dst.train.config.run import Config, ConfigError
from dst.train.config.schema import Choice, Option, Section

KEY = "continual"
_MOST_TASKS = 1000
_HEAD = ("out/*",)


@dataclass(frozen=True)
class Sequential:
    """One network is trained on one task after the other; nothing protects earlier tasks.

    Each task is a run of the config's method, whose schedule starts again. It begins with the
    weights of the task before, and methods that drop and grow begin with its connections, too.
    """

    def check(self, config: Config, scenario: str) -> None:
        """Raises ValueError unless the study fits its runs."""
        if isinstance(config.rule(), Latent):
            raise ValueError(
                "method must switch the weights themselves with strategy 'sequential', got "
                f"{config.method.name!r}, whose latent weights would not pass from task to task. "
                "Use set, rigl, static, gmp or dense."
            )


@dataclass(frozen=True)
class PackNet:
    """Each task keeps its largest weights, and later tasks train those that it left free.

    A task trains all free weights beside the frozen ones of earlier tasks. Then the smallest of
    its own become free again, and those that it keeps are trained on. Of each layer, a task uses
    its own weights and those of all tasks before.

    Attributes:
      prune: share of the weights just trained that becomes free, per layer, in (0, 1).
      retrain: how long the kept weights are trained on; steps or percent of training.
      own: patterns of leaves that each task has for itself: its head. They are dense, start new,
        and are stored per task. All other leaves without mask, such as biases, are trained with
        the first task and frozen then.

    References: Mallya and Lazebnik 2018, "PackNet: Adding Multiple Tasks to a Single Network by
    Iterative Pruning" (arXiv 1711.05769).

    Checked against: arunmallya/packnet at de4ff7e, src/prune.py; masks by hand and frozen weights
    bit for bit, tests/studies/continual/test_packnet.py.
    Differs from the code: floor(prune n) of n weights become free, there round(prune n) and all
    that tie. The first task is trained here, there it comes pretrained. The optimizer begins anew
    for the second training. The last weights are kept, there the best ones on the test set.
    """

    prune: float = 0.5
    retrain: Duration = "50%"
    own: tuple[str, ...] = _HEAD

    def __post_init__(self) -> None:
        checks.fraction("prune", self.prune, below_one=True)
        if self.prune == 0:
            raise ValueError("prune must be above 0, got 0: nothing would be left for later tasks.")
        duration("retrain", self.retrain)

    def check(self, config: Config, scenario: str) -> None:
        """Raises ValueError unless the study fits its runs."""
        _check_method(config, ("dense",), "Masks come from pruning after each task.")
        _check_known(scenario, "packnet")
        steps = config.train.steps
        if not 1 <= resolve("retrain", self.retrain, steps, "") <= steps:
            raise ValueError(
                f"continual.strategy.retrain must be from 1 to {steps} steps, got "
                f"{shown(self.retrain)}."
            )


@dataclass(frozen=True)
class Piggyback:
    """Each task learns which weights of one frozen network it uses.

    The network is that of start.weights. Without it, the first task trains a dense network, and
    later tasks learn masks of that.

    Attributes:
      own: as of packnet.

    References: Mallya et al. 2018 (arXiv 1801.06519); the method is dst/methods/piggyback.py.

    Checked against: arunmallya/piggyback at 3529efd, src/modnets/layers.py; frozen weights bit for
    bit, tests/studies/continual/test_frozen.py.
    Differs from the code: without start.weights, the first task takes the place of ImageNet.
    """

    own: tuple[str, ...] = _HEAD

    def check(self, config: Config, scenario: str) -> None:
        """Raises ValueError unless the study fits its runs."""
        _check_method(config, ("piggyback",), "It trains masks of frozen weights.")
        _check_known(scenario, "piggyback")
        _check_trained(config, self.own)


@dataclass(frozen=True)
class SupSup:
    """Each task learns a mask of one random network, which is never trained.

    Attributes:
      infer: whether the task of a test example is not given. It is inferred: at the equal mix of
        all masks, the entropy of the outputs falls most steeply along the mask of the task.
      own: as of packnet; the paper has none. Not together with `infer`.

    References: Wortsman et al. 2020, "Supermasks in Superposition" (arXiv 2006.14769); the masks
    are those of edge-popup (arXiv 1911.13299).

    Checked against: RAIVNLab/supsup at 6a58b50, models/modules.py (``MultitaskMaskConv``), and at
    3721bcf, adaptors.py (``se_oneshot_minimization``); slopes by autodiff and differences,
    tests/studies/continual/test_frozen.py.
    Differs from the code: each test example infers its task alone; there, a batch of one task does
    so by its first examples. Left out: binary search, superfluous neurons, transfer of scores,
    masks of N:M scores above zero, and Hopfield networks.
    """

    infer: bool = False
    own: tuple[str, ...] = ()

    def check(self, config: Config, scenario: str) -> None:
        """Raises ValueError unless the study fits its runs."""
        _check_method(config, ("edge-popup",), "It trains masks of random weights.")
        if config.start.weights is not None:
            raise ValueError("start.weights must be null with strategy 'supsup': they are random.")
        if self.infer and self.own:
            raise ValueError(
                "continual.strategy.own must be empty with infer: true, since all tasks share "
                f"their outputs, got {list(self.own)}."
            )
        if self.infer and scenario == "task":
            raise ValueError(
                "continual.strategy.infer must be false in the scenario 'task', in which the task "
                "is given. Use scenario: class or domain."
            )
        if not self.infer:
            _check_known(scenario, "supsup", " Or infer the task with continual.strategy.infer.")
        _check_trained(config, self.own)


STRATEGY = Choice(
    {
        "sequential": Option(Sequential),
        "packnet": Option(PackNet),
        "piggyback": Option(Piggyback),
        "supsup": Option(SupSup),
    }
)


@dataclass(frozen=True)
class Continual:
    """What one network learns one after the other, and how.

    Attributes:
      tasks: how many.
      scenario: of van de Ven and Tolias (arXiv 1904.07734). task: the classes are split over the
        tasks in order; the task of an example is known, and only its classes compete. class: the
        same split, and all classes compete. domain: all tasks have all classes, and each permutes
        the numbers of every input in another way.
      strategy: how the tasks are learned.
    """

    tasks: int = 5
    scenario: Literal["task", "class", "domain"] = "task"
    strategy: Annotated[Section, STRATEGY] = field(
        default_factory=lambda: Section("sequential", Sequential())
    )

    def __post_init__(self) -> None:
        checks.integer("tasks", self.tasks, at_least=2, at_most=_MOST_TASKS)


@dataclass(frozen=True)
class Study:
    """Several tasks: the config that their runs share, and how they follow each other.

    Attributes:
      config: of an ordinary run, on the whole data set.
      continual: the section.
    """

    config: Config
    continual: Continual

    def __post_init__(self) -> None:
        config, scenario = self.config, self.continual.scenario
        start, objective = config.start, config.objective
        if start.masks or start.trained or start.step or config.train.snapshots:
            raise ValueError(
                "start.masks, start.trained, start.step and train.snapshots must be left out: the "
                "study itself decides how its runs start and which weights they keep."
            )
        if config.sparsify.form != "masked":
            raise ValueError(
                f"sparsify.form must be 'masked' here, got {config.sparsify.form!r}: tasks start "
                "from dense arrays."
            )
        plain = objective is None or objective == runs.OBJECTIVE.read(objective.name, "objective")
        if scenario == "task" and (objective and objective.name != "classification" or not plain):
            raise ValueError(
                "objective must be null or classification of all classes in the scenario 'task', "
                f"whose runs mask the classes of other tasks, got {shown(objective.name)}."  # type: ignore[union-attr]
            )
        self.continual.strategy.value.check(config, scenario)


def load(path: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Study:
    """Reads, merges and validates a config and its section ``continual``.

    Args:
      path: of a YAML 1.2 file; or what it would hold. Without the section, the study has its
        defaults.
      overrides: ``key=value`` with dotted keys, as for a run.

    Raises:
      ConfigError: with file, key, what was expected, what was found, and the nearest valid name.
    """
    name = "the config" if isinstance(path, Mapping) else path
    try:
        data = runs.merged(path, overrides)
        section = data.get(KEY, {})
        beside = Path() if isinstance(path, Mapping) else path
        config = runs.parse({k: v for k, v in data.items() if k != KEY}, beside)
        return Study(config, schema.read(Continual, section, KEY))
    except ValueError as error:
        raise ConfigError(f"{runs.source(name, overrides)}: {error}") from error


def dump(study: Study) -> str:
    """The resolved study as YAML; :func:`load` reads it back."""
    return plain_data.to_yaml({KEY: settings(study), **runs.to_dict(study.config)})


def settings(study: Study) -> dict[str, Any]:
    """The section as plain data."""
    return schema.dump(Continual, study.continual)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the section."""
    return schemas.json_schema(Continual)


def _check_method(config: Config, names: Sequence[str], why: str) -> None:
    if config.method.name not in names:
        expected = " or ".join(map(repr, names))
        raise ValueError(f"method must be {expected} here, got {shown(config.method.name)}. {why}")


def _check_known(scenario: str, strategy: str, advice: str = "") -> None:
    if scenario == "class":
        raise ValueError(
            f"continual.scenario must be 'task' or 'domain' with strategy {strategy!r}, whose "
            f"masks need to know the task of an example, got 'class'.{advice}"
        )


def _check_trained(config: Config, own: Sequence[str]) -> None:
    """Heads of tasks are trained beside latent weights; other leaves without mask are not."""
    if config.optimizer.value.trainable is not None:
        raise ValueError(
            "optimizer.trainable must be null here: a task trains its masks and its head, got "
            f"{shown(config.optimizer.value.trainable)}."
        )
    rule = config.rule()
    if own and isinstance(rule, Latent) and not rule.train_dense:
        raise ValueError(
            "method.train_dense must be true where tasks have a head of their own, which would not "
            f"be trained. Set it, or leave continual.strategy.own={list(own)} empty."
        )
