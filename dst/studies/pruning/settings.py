"""What ``dst prune`` does to a model, as plain data that is checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from dst.core import checks
from dst.oneshot import named
from dst.oneshot.matrix import OneShot
from dst.oneshot.network import DataAllocator
from dst.rules.structure import NM, Structure


@dataclass(frozen=True)
class Settings:
    """How a pretrained model is pruned.

    Attributes:
      model: a directory, or a GGUF file, as :func:`dst.models.load` reads them.
      method: name and arguments of a one-shot method: ``wanda``, ``sparsegpt(mask=wanda)``.
      sparsity: of the pruned matrices, in [0, 1); None: what the structure leaves.
      structure: ``N:M``; None: single weights.
      allocation: ``uniform``, ``erk``, ``owl``, ``owl(outlier=3.0)``, ``ecoflap``,
        ``evopress(generations=50)``, ...
      calibration: text, as :func:`dst.eval.sides` reads it; the other side judges the model.
      windows: how many pieces of text, and tokens in each; equally many judge the model.
      seed: of the pieces that calibrate.
      select: patterns of leaves, as for :func:`dst.sparsify`; empty: all projections of the blocks.
      preserve: whether weights that are zero stay zero.
      blocks: ``auto`` or ``matrix``, as for :func:`dst.prune`.

    Raises:
      ValueError: a value that does not fit, naming it.
    """

    model: str
    method: str
    sparsity: float | None = None
    structure: str | None = None
    allocation: str = "uniform"
    calibration: str = "topics"
    windows: tuple[int, int] = (32, 256)
    seed: int = 0
    select: tuple[str, ...] = ()
    preserve: bool = False
    blocks: str = "auto"

    def __post_init__(self) -> None:
        self.one_shot()
        self.allocated()
        pattern = self.pattern()
        if self.sparsity is not None:
            checks.fraction("sparsity", self.sparsity, below_one=True)
        elif not isinstance(pattern, NM):
            raise ValueError("sparsity must be given, or a structure such as 2:4.")
        checks.integer("the number of windows", self.windows[0], at_least=1)
        checks.integer("the length of windows", self.windows[1], at_least=2)
        checks.integer("seed", self.seed, at_least=0)

    def one_shot(self) -> OneShot:
        """The method."""
        return named.method(self.method)

    def allocated(self) -> str | DataAllocator:
        """The allocation."""
        return named.allocation(self.allocation)

    def pattern(self) -> Structure:
        """The structure."""
        return named.structure(self.structure)

    def share(self) -> float:
        """The sparsity."""
        pattern = self.pattern()
        if self.sparsity is None and isinstance(pattern, NM):
            return float(pattern.sparsity)
        assert self.sparsity is not None  # checked when the settings were made
        return self.sparsity
