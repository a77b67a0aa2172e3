"""One-shot magnitude pruning: the smallest weights go, without data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import optax

from dst.core import checks, tree
from dst.core.registry import named
from dst.core.text import shown
from dst.core.typing import Array, Tree
from dst.engine.projection import apply_masks
from dst.engine.sparsify import sparsify
from dst.inspect.metrics import masks as masks_of
from dst.oneshot.matrix import Matrix, Scope
from dst.oneshot.statistics import Needs
from dst.rules.allocation import Allocator
from dst.rules.rule import HowMany, Rule, Start
from dst.rules.structure import ConstantFanIn, Structure, Unstructured

SCOPES = ("layer", "global", "row")


@named("magnitude")
@dataclass(frozen=True)
class Magnitude:
    """Sets the smallest weights ``|w|`` to zero.

    Args:
      scope: which weights compete: those of a ``layer``, of all layers (``global``), or of a
        ``row``, which is one output.

    Raises:
      ValueError: an unknown scope.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> params = {"w": jnp.array([[1.0, 4.0], [2.0, 3.0]])}
      >>> dst.prune(params, 0.5, method=dst.Magnitude("row"))[0]["w"].tolist()
      [[0.0, 4.0], [2.0, 0.0]]

    References: Han et al. 2015, "Learning both weights and connections for efficient neural
    networks" (arXiv 1506.02626).
    Checked against: tables in NumPy: tests/oneshot/test_magnitude.py.
    """

    needs: ClassVar[Needs] = "nothing"

    scope: Literal["layer", "global", "row"] = "layer"

    def __post_init__(self) -> None:
        checks.one_of("scope of Magnitude", self.scope, SCOPES)

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask; within one matrix, ``global`` is ``layer``."""
        scope: Scope = "output" if self.scope == "row" else "matrix"
        mask = matrix.best(jnp.abs(matrix.weight), scope)
        return jnp.where(mask, matrix.weight, 0.0), mask

    def of_leaves(
        self,
        params: Tree,
        sparsity: float,
        allocation: str | Allocator,
        structure: Structure,
        survey: Mapping[str, Any],
        preserve: bool,
    ) -> tuple[Tree, dict[str, Array]]:
        """The pruned tree and its masks: all leaves at once, as training starts from them."""
        if self.scope == "global":
            if allocation != "uniform":
                raise ValueError(
                    "allocation: Magnitude('global') lets all layers compete, got "
                    f"{shown(allocation)} beside it. Use one of the two."
                )
            allocation = "global"
        if self.scope == "row":
            if structure != Unstructured():
                raise ValueError(
                    "structure: Magnitude('row') ranks single weights per output, got "
                    f"{structure}. Use one of the two."
                )
            structure = ConstantFanIn()
        rule = Rule(sparsity, structure, how_many=HowMany(allocation), start=Start("magnitude"))
        state = sparsify(optax.identity(), rule, **survey).init(params)
        pruned, masks = apply_masks(params, state), masks_of(state)
        if preserve:
            of = dict(zip(*tree.flatten(pruned)[:2], strict=True))
            masks = {path: mask & (of[path] != 0) for path, mask in masks.items()}
        return pruned, masks
