"""A study of many runs as data: the section ``lottery`` beside those of an ordinary config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dst.core import checks
from dst.core.text import shown
from dst.rules.schedule import Duration, duration, resolve
from dst.train.config import plain_data
from dst.train.config import run as runs
from dst.train.config.json_schema import of_choice
from dst.train.config.run import Config, ConfigError
from dst.train.config.schema import Choice, Option, Section
from dst.train.optimizer import learning_rate

KEY = "lottery"
_KEPT = ("lr", "finetune")  # these continue from the trained weights, not from earlier ones
_MOST_ROUNDS = 1000  # 10 already leave a tenth of the weights
_MOST_RUNS = 10_000  # also of points on a line, at each of which a network is evaluated


@dataclass(frozen=True)
class Tickets:
    """Train, prune the smallest weights, rewind, train again: iterative magnitude pruning.

    Attributes:
      rounds: how often the network is pruned; round 0 is the dense network.
      prune: share of the remaining weights that each round removes, in (0, 1).
      rounding: floor removes floor(prune * remaining) weights; ceil rounds that number up.
      scope: whether weights are ranked within their layer or over all layers.
      overrides: prune by leaf pattern, such as 0.1 for the output layer; 0 leaves a leaf dense,
        the only value that the global scope knows.
      min_active: weights that the global scope leaves in every layer; 0: a layer that would lose
        all its weights is an error.
      rewind: the step (or percent of training) whose weights a round goes back to, 0 for the
        initial ones; lr keeps the trained weights and rewinds the learning rate only, finetune
        keeps both.
      retrain: how long lr and finetune train again; lr ends at the last step of training.
      finetune_rate: learning rate of finetune; null: the last one of training.
      one_shot: whether every round prunes the dense network at once to the weights that the
        iterative rounds would have left.
      controls: what a ticket is compared with, trained again in every round. reinit: the same
        masks, new initial weights, from step 0. random_masks: as many weights in every layer,
        drawn at random, at the rewound weights (of step 0 for lr and finetune).
      connectivity: whether every round is trained a second time on batches in another order, to
        see whether the error stays low on the line between both solutions.
      points: of that line, ends included.

    References:
      Frankle & Carbin 2019 (arXiv 1803.03635): tickets, layerwise pruning, both controls.
      Frankle et al. 2020 (arXiv 1912.05671): rewinding to a step, linear mode connectivity.
      Renda et al. 2020 (arXiv 2003.02389): learning-rate rewinding, fine-tuning.

    Checked against: the papers' descriptions; two rounds by hand,
    tests/studies/lottery/test_pruning.py::test_two_rounds_by_hand.
    Differs from the codes: they remove one weight more
    (google-research/lottery-ticket-hypothesis at 43ef68d, foundations/pruning.py;
    facebookresearch/open_lth at 773470d, pruning/sparse_global.py).
    """

    rounds: int = 10
    prune: float = 0.2
    rounding: Literal["floor", "ceil"] = "floor"
    scope: Literal["layer", "global"] = "layer"
    overrides: Mapping[str, float] = field(default_factory=dict)
    min_active: int = 0
    rewind: Duration = 0
    retrain: Duration = "100%"
    finetune_rate: float | None = None
    one_shot: bool = False
    controls: tuple[Literal["reinit", "random_masks"], ...] = ("reinit", "random_masks")
    connectivity: bool = False
    points: int = 30

    def __post_init__(self) -> None:
        checks.integer("rounds", self.rounds, at_least=1, at_most=_MOST_ROUNDS)
        checks.integer("min_active", self.min_active, at_least=0)
        checks.integer("points", self.points, at_least=2, at_most=_MOST_RUNS)
        checks.fraction("prune", self.prune, below_one=True)
        if self.prune == 0:
            raise ValueError("prune must be above 0, got 0: nothing would be removed.")
        for pattern, rate in self.overrides.items():
            checks.fraction(f"overrides of {pattern}", rate, below_one=True)
            if rate and self.scope == "global":
                raise ValueError(
                    f"overrides of {pattern} must be 0 with scope 'global', which ranks all layers "
                    f"together, got {rate}. Use scope 'layer'."
                )
        if self.min_active and self.scope == "layer":
            raise ValueError(
                f"min_active must be 0 with scope 'layer', whose counts are fixed per layer, got "
                f"{self.min_active}."
            )
        if self.keeps_weights:
            if self.connectivity:
                raise ValueError(
                    "connectivity needs rewind to be a step, from which two copies start, "
                    f"got rewind={shown(self.rewind)}."
                )
        else:
            try:
                duration("rewind", self.rewind)
            except ValueError as error:
                raise ValueError(f"{str(error)[:-1]}; or one of {list(_KEPT)}.") from error
            if self.retrain != "100%":
                raise ValueError(
                    f"retrain must be '100%' where weights are rewound: training goes from the "
                    f"step of rewind={shown(self.rewind)} to its end, got {shown(self.retrain)}."
                )
        duration("retrain", self.retrain)
        if self.finetune_rate is not None and not (
            self.rewind == "finetune" and self.finetune_rate > 0
        ):
            raise ValueError(
                "finetune_rate must be a number > 0 with rewind='finetune' and null otherwise, "
                f"got {self.finetune_rate} with rewind={shown(self.rewind)}."
            )

    @property
    def keeps_weights(self) -> bool:
        """Whether rounds continue from trained weights: learning-rate rewinding and fine-tuning."""
        return self.rewind in _KEPT

    def rewind_step(self, steps: int) -> int:
        """The step whose weights are rewound to; 0 where trained weights are kept."""
        return 0 if self.keeps_weights else resolve("rewind", self.rewind, steps, "")

    def check(self, config: Config) -> None:
        """Raises ValueError unless the study fits its runs."""
        steps = config.train.steps
        _check_method(config, ("dense",), "The first round trains the dense network.")
        if config.sparsify.form != "masked":
            raise ValueError(
                f"sparsify.form must be 'masked' here, got {config.sparsify.form!r}: rounds rewind "
                "dense arrays."
            )
        if any(x.sparsity for x in config.sparsify.overrides.values()):
            raise ValueError(
                "sparsify.overrides may only leave leaves dense (sparsity 0) here. "
                "lottery.overrides says how much a layer is pruned."
            )
        if self.rewind_step(steps) >= steps:
            raise ValueError(
                f"lottery.rewind must lie before the end of training at {steps}, got "
                f"{shown(self.rewind)}."
            )
        if not 1 <= resolve("retrain", self.retrain, steps, "") <= steps:
            raise ValueError(
                f"lottery.retrain must be from 1 to {steps} steps, got {shown(self.retrain)}."
            )
        last = learning_rate(config.optimizer.value, steps)(steps - 1)
        if self.rewind == "finetune" and self.finetune_rate is None:
            if last < 0.01 * config.optimizer.value.learning_rate:
                raise ValueError(
                    f"lottery.finetune_rate is missing: the last learning rate of training is "
                    f"{last:.2g}, below 1 % of its peak, and would not train anything."
                )


@dataclass(frozen=True)
class RandomSearch:
    """Static masks of several seeds at the same initial weights: the best one, and the spread.

    The baseline for every method that searches masks: as many networks, drawn at random.

    Attributes:
      budget: how many masks are trained.
    """

    budget: int = 20

    def __post_init__(self) -> None:
        checks.integer("budget", self.budget, at_least=2, at_most=_MOST_RUNS)

    def check(self, config: Config) -> None:
        """Raises ValueError unless the study fits its runs."""
        _check_method(config, ("static",), "Its sparsity and allocation say what is drawn.")
        if config.sparsify.initial not in (None, "random"):
            raise ValueError(
                "sparsify.initial must be 'random' here, or all masks would be the same, got "
                f"{shown(config.sparsify.initial)}."
            )


@dataclass(frozen=True)
class Connectivity:
    """Two copies of one network start at a step and see batches in different orders: does the
    error stay low on the line between their solutions?

    Attributes:
      at: the step at which the copies start.
      points: of the line, ends included.

    References:
      Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis"
      (arXiv 1912.05671).
    """

    at: Duration = 0
    points: int = 30

    def __post_init__(self) -> None:
        duration("at", self.at)
        checks.integer("points", self.points, at_least=2, at_most=_MOST_RUNS)

    def check(self, config: Config) -> None:
        """Raises ValueError unless the study fits its runs."""
        _check_method(config, ("dense", "static", "from_masks"), "Masks must not change.")
        if resolve("at", self.at, config.train.steps, "") >= config.train.steps:
            raise ValueError(
                f"lottery.at must lie before the end of training at {config.train.steps}, got "
                f"{shown(self.at)}."
            )


KINDS = Choice(
    {
        "tickets": Option(Tickets),
        "random_search": Option(RandomSearch),
        "connectivity": Option(Connectivity),
    }
)


@dataclass(frozen=True)
class Study:
    """Many runs: the config that they share, and what is done with it.

    Attributes:
      config: of an ordinary run.
      lottery: one of :data:`KINDS`.
    """

    config: Config
    lottery: Section

    def __post_init__(self) -> None:
        start = self.config.start
        used = start.weights or start.step or self.config.train.snapshots
        if used or (start.masks and self.lottery.name != "connectivity"):
            raise ValueError(
                "start and train.snapshots must be left out: the study itself decides how its runs "
                "start and which weights they keep."
            )
        self.lottery.value.check(self.config)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Reads, merges and validates a config and its section ``lottery``.

    Args:
      path: of a YAML 1.2 file. Without the section, the study has its defaults; without a name in
        it, it is about tickets.
      overrides: ``key=value`` with dotted keys, as for a run.

    Raises:
      ConfigError: with file, key, what was expected, what was found, and the nearest valid name.
    """
    try:
        data = runs.merged(path, overrides)
        section = data.get(KEY, {})
        if isinstance(section, Mapping):
            section = {"name": "tickets", **section}
        config = runs.parse({k: v for k, v in data.items() if k != KEY}, path)
        return Study(config, KINDS.read(section, KEY))
    except ValueError as error:
        raise ConfigError(f"{runs.source(path, overrides)}: {error}") from error


def dump(study: Study) -> str:
    """The resolved study as YAML; :func:`load` reads it back."""
    return plain_data.to_yaml({KEY: KINDS.dump(study.lottery), **runs.to_dict(study.config)})


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the section."""
    arms = of_choice(KINDS)
    for arm in arms["anyOf"]:
        if "properties" in arm and arm["properties"]["name"] == {"const": "tickets"}:
            arm["required"] = []
    return arms


def _check_method(config: Config, names: Sequence[str], why: str) -> None:
    if config.method.name not in names:
        expected = " or ".join(map(repr, names))
        raise ValueError(f"method must be {expected} here, got {shown(config.method.name)}. {why}")
