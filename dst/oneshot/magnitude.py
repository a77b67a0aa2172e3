"""One-shot magnitude pruning: a dense network in, a sparse one and its masks out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optax

from dst.core.tree import Select
from dst.core.typing import Array, Tree
from dst.engine.projection import apply_masks
from dst.engine.sparsify import sparsify
from dst.inspect.metrics import masks
from dst.rules.allocation import Allocator
from dst.rules.rule import HowMany, Rule, Start
from dst.rules.structure import Structure, Unstructured

_WEIGHTS = Unstructured()


def prune(
    params: Tree,
    sparsity: float,
    *,
    allocation: str | Allocator = "uniform",
    structure: Structure = _WEIGHTS,
    select: Select | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    stacked: Mapping[str, int] | None = None,
    axes: Mapping[str, str] | None = None,
) -> tuple[Tree, dict[str, Array]]:
    """Sets the smallest weights to zero, once; counts are exact, ties keep the lower index.

    Args:
      params: any pytree of weights; not changed.
      sparsity: of the selected weights, in [0, 1).
      allocation: ``uniform``, ``er`` or ``erk`` fix the sparsity of every layer; under ``global``
        the weights of all layers compete by magnitude, under ``lamp`` by their LAMP score.
      structure: what is switched: weights, N:M, blocks, channels, ...
      select, overrides, stacked, axes: as for :func:`dst.sparsify`.

    Returns:
      The pruned parameters, of the same tree, dtypes and placement, and bool masks by leaf path.
      To continue training with these masks, pass them to ``dst.FromMasks``.

    Raises:
      ValueError: as :func:`dst.sparsify`, naming the leaf or argument at fault.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> params, masks = dst.prune({"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}, 0.5)
      >>> params["w"].tolist()
      [[0.0, -3.0], [2.0, 0.0]]

    References: magnitude pruning, Han et al. 2015 (arXiv 1506.02626); LAMP, Lee et al. 2021
    (arXiv 2010.07611). Checked against: the formulas, in NumPy
    (``tests/oneshot/test_magnitude.py``).
    """
    rule = Rule(sparsity, structure, how_many=HowMany(allocation), start=Start("magnitude"))
    options = {"select": select, "overrides": overrides, "stacked": stacked, "axes": axes}
    state = sparsify(optax.identity(), rule, **options).init(params)  # type: ignore[arg-type]
    return apply_masks(params, state), masks(state)
