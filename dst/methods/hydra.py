"""HYDRA (Sehwag et al. 2020): learns which trained weights to keep, under the training loss."""

from __future__ import annotations

import math

import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.methods.edge_popup import fan_in, to_scores
from dst.rules.allocation import Allocator
from dst.rules.fields import Sparsity
from dst.rules.latent import Latent
from dst.rules.method import method, named
from dst.rules.structure import Structure, Unstructured


@named("hydra", kind="latent weights")
@method
class HYDRA:
    """Trains a score per weight and uses the weights of largest ``|score|``; weights stay fixed.

    Scores start as ``sqrt(6 / fan_in) w / max |w|``, a maximum per layer, so that training begins
    with the largest weights. ``dL/d|score| = dL/dw_used w``, straight through the choice, as in
    :class:`dst.EdgePopup`. What the loss is, the caller decides: the paper prunes networks of
    adversarial training by the adversarial loss, then trains the weights that are left.

    Args:
      sparsity: of the selected weights, in [0, 1).
      allocation: sparsity per layer; the paper's is uniform.
      train_dense: whether leaves without mask (biases, norms) are trained.
      structure: what is switched.

    Example:
      >>> HYDRA(sparsity=0.9).rule().train_dense
      False

    References:
      Sehwag et al. 2020, "HYDRA: Pruning Adversarially Robust Neural Networks" (arXiv 2002.10509).

    Checked against: inspire-group/hydra at adaa2b48, models/layers.py (the choice and its
    gradient); a start by hand, and the twin in NumPy of the same code as edge-popup:
    tests/methods/test_hydra.py.
    Differs from the code: no forward hook: the optimizer state holds scores and weights, the
    parameters are the weights in use. The optimizer's weight decay acts on scores. The code freezes
    biases and trains BatchNorm; here ``train_dense`` says it of both. The start was read in copies
    of its utils/model.py, not in the repository. Of equal scores the lower index is used.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "uniform"
    train_dense: bool = False
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule; ``steps`` is not needed."""
        return Latent(
            self.sparsity,
            self.structure,
            self.allocation,
            start=scaled,
            fix=lambda weight, leaf: weight,
            weight=lambda leaf: leaf.fixed,
            gradient=to_scores,
            train_dense=self.train_dense,
        )


def scaled(weight: Array, leaf: Leaf, key: Array) -> Array:
    """``sqrt(6 / fan_in) w / max |w|``: as large as Kaiming's initialisation; zero for a layer of
    zeros."""
    axes = tuple(range(leaf.stacked, weight.ndim))
    largest = jnp.max(jnp.abs(weight), axis=axes, keepdims=True)
    bound = jnp.float32(math.sqrt(6 / fan_in(leaf)))
    return bound * weight / jnp.where(largest > 0, largest, jnp.float32(1))
