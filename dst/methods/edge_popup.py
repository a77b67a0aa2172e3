"""Edge-popup (Ramanujan et al. 2020): learns which random weights to use, not the weights."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from dst.core.draws import uniform
from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules.allocation import Allocator
from dst.rules.fields import Sparsity
from dst.rules.latent import Latent, LatentLeaf
from dst.rules.method import method, named
from dst.rules.structure import Structure, Unstructured


@named("edge-popup", kind="latent weights")
@method
class EdgePopup:
    """Trains a score per weight and uses the weights of largest ``|score|``; weights stay fixed.

    ``dL/d|score| = dL/dw_used * w``, straight through the choice: a weight that would lower the
    loss comes up, whatever the sign of its score.

    Args:
      sparsity: of the selected weights, in [0, 1). The authors' flags give the kept fraction.
      allocation: sparsity per layer; the paper's is uniform.
      signed_constant: weights become ``sign(w) sqrt(2 / (fan_in density))``, the paper's best
        choice with its scaled fan-in. False: the weights of initialisation.
      train_dense: whether leaves without mask (biases, norms) are trained; in the paper not.
      structure: what is switched.

    Example:
      >>> EdgePopup(sparsity=0.5).rule().train_dense
      False

    References:
      Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?"
      (arXiv 1911.13299).

    Checked against: allenai/hidden-networks at dddf2d0, simple_mnist_example.py;
    tests/methods/test_random_cases.py::test_edge_popup_equals_its_authors_code; its gradient
    against autodiff through ``|score|``.
    Differs from the code: no forward hook: the optimizer state holds scores and weights, the
    parameters are the weights in use. The optimizer's weight decay acts on scores. The scaled
    fan-in takes the kept fraction; utils/builder.py takes 1 minus it (equal at 50 %). Of equal
    scores the lower index is used.
    """

    sparsity: Sparsity = 0.5
    allocation: str | Allocator = "uniform"
    signed_constant: bool = True
    train_dense: bool = False
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule; ``steps`` is not needed."""
        density = 1 - self.sparsity

        def fix(weight: Array, leaf: Leaf) -> Array:
            if not self.signed_constant:
                return weight
            return jnp.sign(weight) * jnp.float32(math.sqrt(2 / (fan_in(leaf) * density)))

        return Latent(
            self.sparsity,
            self.structure,
            self.allocation,
            start=scores_at_start,
            fix=fix,
            weight=lambda leaf: leaf.fixed,
            gradient=to_scores,
            train_dense=self.train_dense,
        )


def fan_in(leaf: Leaf) -> int:
    """Inputs of one neuron: all axes that are not outputs."""
    lengths = zip(leaf.letters, leaf.layer_shape, strict=True)
    return math.prod(n for letter, n in lengths if letter != "o")


def scores_at_start(weight: Array, leaf: Leaf, key: Array) -> Array:
    """Uniform in ``+-1 / sqrt(fan_in)``: Kaiming's initialisation with slope sqrt(5)."""
    bound = jnp.float32(1 / math.sqrt(fan_in(leaf)))
    return (2 * uniform(jax.random.fold_in(key, 1), weight) - 1) * bound


def to_scores(leaf: LatentLeaf) -> Array:
    """``dL/dw w sign(score)``: scores are ranked by their size, and that is what pops up."""
    return leaf.grad * leaf.fixed * jnp.sign(leaf.latent)
