"""The sections of a config that have no file of their own: plain data, and what it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dst.core import checks
from dst.rules.schedule import Duration, duration, resolve


@dataclass(frozen=True)
class Override:
    """What differs for the leaves of one pattern.

    Attributes:
      sparsity: in [0, 1); 0 leaves them dense.
    """

    sparsity: float

    def __post_init__(self) -> None:
        checks.fraction("sparsity", self.sparsity, below_one=True)


@dataclass(frozen=True)
class Sparsify:
    """Arguments of :func:`dst.sparsify` beside the method.

    Attributes:
      select: pattern or patterns of the leaves that are sparse (`!pattern` takes out again);
        null: leaves of two or more dimensions except embeddings, positions and norms, which the
        modules of the network tell, or else the names of leaves.
      overrides: settings by leaf pattern.
      stacked: number of leading axes that enumerate layers, by leaf pattern.
      axes: meaning of kernel axes, by leaf pattern: `"i o o"`, a letter per axis that is not
        stacked, `i` input, `o` output, `k` window. The modules of Flax say it by themselves.
      initial: the connections to start with: random ones, or those of largest initial weight;
        null: what the method says, mostly random.
      scale: smupar: the variance of new weights and the learning rate of a layer follow its
        density, so that the best `learning_rate` of an Adam-like optimizer is that of a dense
        network. null: they do not.
      form: masked: weights and moments are dense arrays with zeros. packed: only active weights,
        their moments and places are stored, which takes a seventh of the memory at 90 %.
    """

    select: str | tuple[str, ...] | None = None
    overrides: Mapping[str, Override] = field(default_factory=dict)
    stacked: Mapping[str, int] = field(default_factory=dict)
    axes: Mapping[str, str] = field(default_factory=dict)
    initial: Literal["random", "magnitude"] | None = None
    scale: Literal["smupar"] | None = None
    form: Literal["masked", "packed"] = "masked"


@dataclass(frozen=True)
class Train:
    """How long, and what happens how often. Durations are steps or percent of training.

    Attributes:
      steps: optimizer updates.
      log_every: between records of the training loss.
      eval_every: between evaluations on the test set.
      checkpoint_every: between checkpoints.
      keep: how many checkpoints stay, the newest.
      keep_best: how many stay beside them because they are the best on the test set. Above 0 every
        checkpoint of `checkpoint_every` is evaluated; one that was written because a run was
        stopped is not, and stays only while it is among the newest.
      on_nonfinite: what happens at a loss, gradient or weight that is no finite number. stop: the
        run ends. skip: that update is left out. rollback: back to the newest checkpoint, and on
        with the batches after the bad one; at most 3 times from the same checkpoint.
      recalibrate: training batches over which BatchNorm's statistics are averaged again for every
        evaluation, since running averages lag behind masks that change. 0: the running averages,
        which are what a checkpoint holds. Without BatchNorm nothing happens.
      snapshots: after which the weights are kept for good, in weights-<step>.safetensors.
      compute: type in which layers multiply and add. Whatever it is, weights, scores, moments,
        BatchNorm's statistics and the loss are float32.
      steps_per_call: updates that one call of the compiled program makes, at most: it ends before
        a topology step, and where something is logged, evaluated or saved. Above 1, small networks
        do not wait for Python between updates; their batches lie on the devices together, and a
        signal is answered after the call. Convolutions on CPU are slow in such a loop.
    """

    steps: int
    log_every: Duration = 50
    eval_every: Duration = "5%"
    checkpoint_every: Duration = "10%"
    keep: int = 3
    keep_best: int = 0
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    recalibrate: int = 0
    snapshots: tuple[Duration, ...] = ()
    compute: Literal["float32", "bfloat16"] = "float32"
    steps_per_call: int = 1

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, at_least=1)
        checks.integer("steps_per_call", self.steps_per_call, at_least=1)
        checks.integer("keep", self.keep, at_least=1)
        checks.integer("keep_best", self.keep_best, at_least=0)
        checks.integer("recalibrate", self.recalibrate, at_least=0)
        for name in ("log_every", "eval_every", "checkpoint_every"):
            duration(name, getattr(self, name))
            checks.integer(name, self.interval(name), at_least=1)
        for i, step in enumerate(self.snapshots):
            duration(f"snapshots[{i}]", step)
        if late := [n for n in self.snapshot_steps() if n > self.steps]:
            raise ValueError(
                f"snapshots must lie within the {self.steps} steps of training, got {late[0]}."
            )

    def interval(self, name: str) -> int:
        """``log_every``, ``eval_every`` or ``checkpoint_every`` in steps; percentages give at
        least one."""
        value = getattr(self, name)
        length = resolve(name, value, self.steps, "")
        return max(length, 1) if isinstance(value, str) else length

    def most_per_call(self) -> int:
        """How many updates one call can make at all, at most ``steps_per_call``."""
        ends = map(self.interval, ("log_every", "eval_every", "checkpoint_every"))
        return min(self.steps_per_call, self.steps, *ends)

    def snapshot_steps(self) -> set[int]:
        """``snapshots`` in steps."""
        return {resolve("snapshots", value, self.steps, "") for value in self.snapshots}


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases. What is null or empty, W&B takes from its environment variables, if set.

    Attributes:
      mode: offline records into the run directory, for `wandb sync` later.
      project: where the run appears.
      entity: the user or team that owns the project; null: the default one of the account.
      name: shown for the run; null: the name of the config.
      group: shown together with the runs of this group; null: none. Trials of `dst sweep` have
        the name of the sweep.
      job_type: what the run is for within its group; null: none. Trials of `dst sweep` have
        `trial`.
      tags: to filter runs by.
      notes: text shown with the run.
      resume: what happens if W&B has a run of the same id. allow: it continues, or a new one
        begins. must: a run without one to continue is not logged. never: a run with one is not
        logged. auto: as allow.
      artifacts: what W&B keeps as versioned files at the end of the run: the masks, a checkpoint
        (the best one if `train.keep_best` is set, otherwise the newest), the report.
    """

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "dst"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    resume: Literal["allow", "must", "never", "auto"] = "allow"
    artifacts: tuple[Literal["masks", "checkpoint", "report"], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.project) <= 128 or any(x in self.project for x in "/\\#?%:"):
            raise ValueError(
                "project must have 1 to 128 characters, none of them / \\ # ? % or :, "
                f"got {self.project!r}."
            )
        for i, tag in enumerate(self.tags):
            if not 1 <= len(tag) <= 64:
                raise ValueError(f"tags[{i}] must have 1 to 64 characters, got {tag!r}.")


@dataclass(frozen=True)
class Mesh:
    """Devices, as a grid of `data` by `model`.

    Attributes:
      data: devices among which a batch is divided; -1: as many as there are.
      model: devices that share the work of each layer, and the weights in it; 1: none do.
      fully_sharded: whether weights, masks, moments and averages are divided among the devices of
        `data` too, instead of being on each of them; every forward pass gathers the weights.
    """

    data: int = -1
    model: int = 1
    fully_sharded: bool = False

    def __post_init__(self) -> None:
        if self.data != -1 and self.data < 1:
            raise ValueError(
                f"data must be a number of devices >= 1, or -1 for all, got {self.data}."
            )
        checks.integer("model", self.model, at_least=1)
