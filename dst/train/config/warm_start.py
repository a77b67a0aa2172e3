"""What a run begins with, where that is no new network at step 0: weights, masks, a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dst.core import checks
from dst.rules.rule import Rule

_FILES = ("weights", "masks", "trained")


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Files are looked for beside the config, or else from the working directory; the run keeps
    copies of them.

    Attributes:
      weights: safetensors file of all weights by leaf path; null: new ones, by the seed.
      masks: safetensors file of the connections to start with, by leaf path; their counts replace
        the allocation. null: those of sparsify.initial.
      step: optimizer updates that count as done: learning rate and batches go on from there. The
        optimizer's own state is new.
      trained: safetensors file of bool masks by leaf path: the weights that are trained. All others
        keep every bit, whole leaves without a mask too. null: all are trained.
    """

    weights: str | None = None
    masks: str | None = None
    step: int = 0
    trained: str | None = None

    def __post_init__(self) -> None:
        checks.integer("step", self.step, at_least=0)

    def located(self, config: Path) -> Start:
        """The same with the paths of its files as seen from here.

        Args:
          config: the file that names them.

        Raises:
          ValueError: no such file.
        """
        located: dict[str, Any] = {}
        for key in _FILES:
            name = getattr(self, key)
            places = [] if name is None else [config.parent / name, Path(name)]
            located[key] = next((str(p) for p in places if p.is_file()), None)
            if places and located[key] is None:
                raise ValueError(
                    f"start.{key} must be a safetensors file, found none at "
                    f"{' or '.join(map(str, dict.fromkeys(places)))}."
                )
        return replace(self, **located)

    def enclosed(self) -> tuple[Start, dict[str, str]]:
        """The same as it stands in a run directory, and the files to copy there, by new name."""
        names: dict[str, Any] = {
            key: f"start-{key}.safetensors" for key in _FILES if getattr(self, key)
        }
        files = {name: getattr(self, key) for key, name in names.items()}
        return replace(self, **names), files


@dataclass(frozen=True)
class FixedMasks:
    """Training at the connections of start.masks, which never change.

    Checked against: the masks themselves; they are the specification.
    """

    def rule(self, steps: int | None = None) -> Rule:
        """The rule without an allocation; the masks come with the start of the run."""
        return Rule(sparsity=0.0)
