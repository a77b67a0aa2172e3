"""The flat view of parameter trees: sparse leaves as lists, and the way back to trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dst.core import tree
from dst.core.typing import Array, Params, PyTree
from dst.engine.plan import LeafPlan, Planner


class Flat:
    """The leaves of a parameter tree and the plans of the sparse ones.

    Attributes:
      plans: of the sparse leaves, in the order of the tree.
      sparse: the arrays of the sparse leaves.
      sparse_paths: their paths.
    """

    def __init__(self, params: Params, planner: Planner):
        self.paths, self.leaves, self.treedef = tree.flatten(params)
        plan = planner.of(self.paths, self.leaves, params)
        self.at = [i for i, path in enumerate(self.paths) if path in plan.sparse]
        self.plans: list[LeafPlan] = [plan.sparse[self.paths[i]] for i in self.at]
        self.sparse = self.pick(self.leaves)
        self.sparse_paths = tuple(p.leaf.path for p in self.plans)

    def only(self, i: int, leaf: Array) -> Flat:
        """A view of one sparse leaf: its trees are single nodes.

        Args:
          i: which of the sparse leaves.
          leaf: its array.
        """
        view = Flat.__new__(Flat)
        view.paths, view.leaves, view.at = [self.sparse_paths[i]], [leaf], [0]
        view.treedef, view.plans = jax.tree.structure(0), [self.plans[i]]
        view.sparse, view.sparse_paths = [leaf], (self.sparse_paths[i],)
        return view

    def leaves_of(self, nodes: PyTree) -> list[Any]:
        """All leaves of a tree like the parameters, sparse and dense.

        Raises:
          ValueError: the tree has another structure than the parameters.
        """
        try:
            leaves = self.treedef.flatten_up_to(nodes)
        except ValueError as error:
            raise ValueError(
                "the sparse state does not fit the parameters: it belongs to another tree. "
                f"Use the opt_state of tx.init(params). {error}"
            ) from error
        return leaves

    def gradients(self, grads: PyTree) -> list[Any]:
        """All leaves of the gradients.

        Raises:
          ValueError: another structure than that of the parameters, a gradient that is None, or
            one of another shape.
        """
        leaves = self.leaves_of(grads)
        for path, leaf, grad in zip(self.paths, self.leaves, leaves, strict=True):
            if grad is None:
                raise ValueError(
                    f"{path}: expected a gradient, got None. Differentiate with respect to all "
                    "parameters of tx.init(params), or give zeros."
                )
            if jnp.shape(grad) != jnp.shape(leaf):
                raise ValueError(
                    f"{path}: expected a gradient of shape {jnp.shape(leaf)}, got "
                    f"{jnp.shape(grad)}. Average over examples and devices before tx.update."
                )
        return leaves

    def pick(self, leaves: Sequence[Any]) -> list[Any]:
        """The sparse ones of all leaves."""
        return [leaves[i] for i in self.at]

    def of(self, nodes: PyTree) -> list[Any]:
        """The sparse leaves of a tree like the parameters."""
        leaves = self.leaves_of(nodes)
        return [leaves[i] for i in self.at]

    def masks(self, nodes: PyTree) -> list[Array]:
        """The sparse leaves of a mask tree, checked against the parameters."""
        masks = self.of(nodes)
        for plan, mask in zip(self.plans, masks, strict=True):
            shape = getattr(mask, "shape", None)
            if shape != plan.leaf.shape:
                kind = "is dense" if shape is None else f"has shape {shape}"
                raise ValueError(
                    f"masks do not fit the parameters: {plan.leaf.path} has shape "
                    f"{plan.leaf.shape}, its mask {kind}. Use the opt_state of tx.init(params)."
                )
        return masks

    def tree(self, values: Sequence[PyTree]) -> PyTree:
        """A tree like the parameters: values at sparse leaves, ``MaskedNode`` at dense ones."""
        return self.rebuild([optax.MaskedNode()] * len(self.paths), values)

    def map(self, function: Callable[[LeafPlan], PyTree]) -> PyTree:
        """A tree like the parameters from a function of each sparse leaf's plan."""
        return self.tree([function(p) for p in self.plans])

    def zip(self, function: Callable[..., PyTree], *columns: Sequence[Any]) -> PyTree:
        """A tree like the parameters from lists with one entry per sparse leaf."""
        return self.tree([function(*row) for row in zip(*columns, strict=True)])

    def spread(self, numbers: Sequence[Array]) -> list[Array]:
        """Numbers per stacked slice of each sparse leaf, so that they broadcast over the leaf."""
        return [
            lax.expand_dims(n, range(n.ndim, jnp.ndim(x)))
            for n, x in zip(numbers, self.sparse, strict=True)
        ]

    def rebuild(self, leaves: Sequence[Any], values: Sequence[PyTree]) -> PyTree:
        """A tree like the parameters from all leaves, the sparse ones replaced by values."""
        leaves = list(leaves)
        for i, value in zip(self.at, values, strict=True):
            leaves[i] = value
        return self.treedef.unflatten(leaves)
