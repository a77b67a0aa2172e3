"""What a one-shot method sees: one matrix, and how sparse it is to be."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from dst.core import checks
from dst.core.selection import top_k_mask
from dst.core.tree import Leaf
from dst.core.typing import Array, ArrayLike
from dst.oneshot.curvature import Curvature
from dst.oneshot.loss import Gradients
from dst.oneshot.statistics import Needs, Statistics
from dst.rules.allocation import zeros
from dst.rules.layout import Layout
from dst.rules.structure import ConstantFanIn, Structure, Unstructured

Scope = Literal["matrix", "output"]
SCOPES = ("matrix", "output")


@dataclass(frozen=True)
class Matrix:
    """Weights that are pruned together, and the statistics of their inputs.

    Attributes:
      name: the leaf path, with the slice of a stacked leaf: ``blocks/kernel[3]``.
      weight: float32 ``[groups, inputs, outputs]``; groups are experts, or groups of a convolution.
      statistics: of the rows that enter it; None where the method needs nothing.
      sparsity: exact, in [0, 1).
      structure: the unit that is switched.
      preserve: whether weights that are zero stay zero.
      gradients: norms of the gradients of the loss, of the shape of the weight; None where the
        method does not say ``needs_loss = True``.
      curvature: of the loss; None where no second-order method reads it.
      chosen: a mask that was chosen beforehand, as matrices compete; None: there is none.
    """

    name: str
    weight: Array
    statistics: Statistics | None
    sparsity: Fraction
    structure: Structure = Unstructured()
    preserve: bool = False
    gradients: Gradients | None = None
    curvature: Curvature | None = None
    chosen: Array | None = None

    @property
    def curvature_of_loss(self) -> Curvature:
        """The curvature.

        Raises:
          ValueError: there is none, as the loss was not given.
        """
        if self.curvature is None:
            raise ValueError(
                f"{self.name}: this method reads the curvature of the loss. Call dst.prune with "
                "loss= and batches=."
            )
        return self.curvature

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(groups, inputs, outputs)``."""
        groups, inputs, outputs = self.weight.shape
        return groups, inputs, outputs

    @property
    def of_loss(self) -> Gradients:
        """The gradients.

        Raises:
          ValueError: there are none, as the method does not say that it needs the loss.
        """
        if self.gradients is None:
            raise ValueError(
                f"{self.name}: this method reads gradients of the loss. Let it say so "
                "(needs_loss = True), and call dst.prune with loss=."
            )
        return self.gradients

    @property
    def inputs(self) -> Statistics:
        """The statistics.

        Raises:
          ValueError: there are none, as the method said that it needs nothing.
        """
        if self.statistics is None:
            raise ValueError(
                f"{self.name}: this method reads statistics of the inputs. Let it say so "
                "(needs = 'norms' or 'gram'), and call dst.prune with forward= and batches=."
            )
        return self.statistics

    def layout(self, scope: Scope = "matrix") -> Layout:
        """How the structure reads the weight.

        Raises:
          ValueError: a structure that does not fit, naming the leaf and the size.
        """
        checks.one_of("scope", scope, SCOPES)
        structure = self.structure
        if scope == "output" and isinstance(structure, Unstructured):
            structure = ConstantFanIn()
        shape = tuple(self.weight.shape)
        leaf = Leaf(self.name, shape, self.weight.dtype, True, "", stacked=1, axes="i o")
        return structure.layout(leaf)

    def best(self, scores: Array, scope: Scope = "matrix") -> Array:
        """The mask of the highest scores: exact counts, ties to the lowest index.

        Args:
          scores: float32, of the shape of ``weight``.
          scope: ``matrix``: all weights of a group compete; ``output``: those of each output. Other
            structures than single weights have groups of their own.

        Returns:
          bool, of the shape of ``weight``: of ``n`` units ``floor(sparsity * n)`` are False, and
          with ``preserve`` also those that are zero.
        """
        layout = self.layout(scope)
        return best_of(scores, self.weight, self.kept(layout), layout, self.preserve)

    def kept(self, layout: Layout) -> int:
        """How many units stay in each group of the layout."""
        return layout.units - zeros(layout.units, self.sparsity)


@partial(jax.jit, static_argnames=("layout", "preserve"))
def best_of(scores: Array, weight: Array, keep: ArrayLike, layout: Layout, preserve: bool) -> Array:
    """:meth:`Matrix.best`, for use while tracing: ``keep`` units of each group."""
    alive = weight != 0
    # A pattern is chosen whole; what it has of zeros then goes.
    where = layout.units_of(alive) if preserve and layout.pattern is None else None
    pooled = layout.pool(scores.astype(jnp.float32))
    mask = layout.spread(top_k_mask(pooled, keep, where, group_axes=layout.group_axes))
    return mask & alive if preserve else mask


@runtime_checkable
class OneShot(Protocol):
    """What a one-shot method must provide: what it needs, and what it makes of one matrix.

    A method is a frozen dataclass whose fields are its hyper-parameters. It may choose any weights
    and any mask; :meth:`Matrix.best` chooses by scores.

    Attributes:
      needs: ``nothing``, ``norms`` or ``gram``: which statistics of the inputs are computed.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> from dataclasses import dataclass
      >>> from typing import ClassVar
      >>> @dataclass(frozen=True)
      ... class SquaredNorms:
      ...     needs: ClassVar[str] = "norms"
      ...
      ...     def __call__(self, matrix):
      ...         scores = jnp.abs(matrix.weight) * matrix.inputs.squares[:, :, None]
      ...         mask = matrix.best(scores, scope="output")
      ...         return jnp.where(mask, matrix.weight, 0), mask
      >>> forward, x = lambda p, x: x @ p["w"], jnp.array([[1.0, 2.0]])
      >>> params, mine = {"w": jnp.array([[3.0], [1.0]])}, SquaredNorms()
      >>> pruned, _ = dst.prune(params, 0.5, method=mine, forward=forward, batches=[x])
      >>> pruned["w"].tolist()
      [[0.0], [1.0]]
    """

    needs: ClassVar[Needs]

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """New weights and the mask, both ``[groups, inputs, outputs]``."""
        ...
