"""L0 regularisation (Louizos et al. 2018): random gates that can be exactly zero."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from dst.core.tree import Leaf
from dst.core.typing import Array
from dst.rules import hard_concrete
from dst.rules.fields import AboveZero, NotNegative, Sparsity
from dst.rules.latent import Latent, LatentLeaf, TrainedScores, above_zero, sum_like
from dst.rules.method import method, named
from dst.rules.schedule import Duration, resolve
from dst.rules.structure import Structure, Unstructured, structure_of

_HINT = "The authors draw gates over the whole of training."
_CLAMP = math.log(1e-2), math.log(1e2)


@named("l0", kind="latent weights")
@method
class L0:
    """Uses ``w z`` with a hard concrete gate z per unit, and trains ``log alpha`` of every gate.

    ``z = clip(1.2 sigmoid((logit(u) + log alpha) / temperature) - 0.1, 0, 1)`` with u uniform, new
    at every step. ``penalty`` times the expected number of weights whose gate is not zero is added
    to the loss. From ``stop`` on, ``z = clip(1.2 sigmoid(log alpha) - 0.1, 0, 1)``. The sparsity is
    an outcome of training.

    Args:
      expected: the sparsity, in [0, 1), that plans and estimates of costs assume. 0: all leaves
        stay dense.
      penalty: lambda, per weight and relative to the mean loss of an example.
      drop_rate: at the start, in (0, 1): ``log alpha`` is normal around its logit, deviation 0.01.
      temperature: of the gates.
      stop: steps or percent.
      structure: what has a gate: single weights, ``dst.InputChannel()`` (the authors' choice in
        matrices) or ``dst.OutputChannel()`` (theirs in convolutions).

    Raises:
      ValueError: a drop rate of 0 or 1, another structure.

    Example:
      >>> L0(expected=0.9, penalty=1e-6, stop=100).rule().draws
      True

    References:
      Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization"
      (arXiv 1712.01312).

    Checked against: AMLab-Amsterdam/L0_regularization at b0c6f67, l0_layers.py; numbers by hand, a
    twin in NumPy and autodiff, tests/methods/test_l0.py.
    Differs from the code: no L2 term of its own; one optimizer for weights and gates, whose weight
    decay acts on both; all examples of a batch share their gates (``local_rep=False``). A run that
    evaluates before ``stop`` evaluates drawn gates, and its first forward pass has gates of 0 or 1.
    """

    expected: Sparsity
    penalty: NotNegative
    drop_rate: AboveZero = 0.5
    temperature: AboveZero = 2 / 3
    stop: Duration = "100%"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        if self.drop_rate >= 1:
            raise ValueError(f"drop_rate must lie between 0 and 1, got {self.drop_rate}.")
        stop, temperature = resolve("stop", self.stop, steps, _HINT), self.temperature

        def start(weight: Array, leaf: Leaf, key: Array) -> Array:
            structure = structure_of(leaf, self.structure)
            return hard_concrete.start(leaf, structure, self.drop_rate, jax.random.fold_in(key, 1))

        def gate(log_alpha: Array, leaf: LatentLeaf) -> Array:
            assert leaf.key is not None  # the method draws
            key = jax.random.fold_in(leaf.key, 2)
            return hard_concrete.gate(log_alpha, temperature, key, leaf.count < stop)

        def slope(leaf: LatentLeaf) -> Array:
            _, pull = jax.vjp(lambda x: gate(x, leaf), leaf.scores)
            learned = pull(sum_like(leaf.grad * leaf.latent, leaf.scores))[0]
            p = hard_concrete.alive(leaf.scores, temperature)
            return learned + jnp.float32(self.penalty * leaf.layout.unit_size) * p * (1 - p)

        return Latent(
            self.expected,
            self.structure,
            scores=TrainedScores(start, slope, lambda leaf: jnp.clip(leaf.scores, *_CLAMP)),
            score=lambda leaf: jnp.broadcast_to(gate(leaf.scores, leaf), leaf.latent.shape),
            counts=above_zero,
            weight=lambda leaf: leaf.latent * gate(leaf.scores, leaf),
            gradient=lambda leaf: leaf.grad * gate(leaf.scores, leaf),
            draws=True,
        )
