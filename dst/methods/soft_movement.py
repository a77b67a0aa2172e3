"""Soft movement pruning (Sanh et al. 2020): one threshold for the scores of all layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dst.core.typing import Array
from dst.methods.movement import movement, zeros
from dst.rules.fields import BelowOne, NotNegative, Sparsity
from dst.rules.latent import Latent, LatentLeaf, TrainedScores, above_zero
from dst.rules.layout import Layout
from dst.rules.method import method, named
from dst.rules.ramps import cubic
from dst.rules.schedule import Duration, window

_HINT = "The authors raise the threshold between the warm-up and the last tenth of fine-tuning."
_LEAST = 0.005  # of the weights of a layer


@named("soft-movement", kind="latent weights")
@method
class SoftMovement:
    """Uses the weights whose trained score has ``sigmoid(S) > threshold``, in all layers the same.

    ``dL/dS = dL/dw_used w``, straight through the choice, as in :class:`dst.Movement`. The gradient
    of ``penalty mean(sigmoid(S))``, a mean per layer, is added. Threshold and penalty rise from 0
    along a cubic curve. Every layer keeps at least 0.5 % of its weights and one more. The sparsity
    is an outcome of training, in every layer another one.

    Args:
      expected: the sparsity, in [0, 1), that plans and estimates of costs assume. 0: all leaves
        stay dense.
      threshold: at the end, in [0, 1).
      penalty: at the end. The authors divide by the number of layers: theirs is 400 for 72.
      start, stop: of the curve; steps or percent.

    Example:
      >>> SoftMovement(expected=0.9, start=0, stop=100).rule().counts is None
      False

    References:
      Sanh et al. 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (arXiv 2005.07683).

    Checked against: huggingface/block_movement_pruning at 24983af,
    block_movement_pruning/masked_run_squad.py (``schedule_threshold``, ``regularization``);
    huggingface/transformers at 76aa58e, the binarizer.py of its movement-pruning example; numbers
    by hand, a twin in NumPy and autodiff, tests/methods/test_learned_thresholds.py.
    Differs from the code: as :class:`dst.Movement`; the penalty is not divided by the number of
    layers; the curve runs one step later; of equal scores the lower index stays.
    """

    expected: Sparsity
    threshold: BelowOne = 0.1
    penalty: NotNegative = 5.0
    start: Duration = "10%"
    stop: Duration = "90%"

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        start, stop = window(self.start, self.stop, steps, _HINT)
        risen = cubic(1.0, start, stop)

        def slope(leaf: LatentLeaf) -> Array:
            p = jax.nn.sigmoid(leaf.scores)
            pull = self.penalty / max(leaf.layout.units, 1) * risen(leaf.count)
            return movement(leaf) + pull * p * (1 - p)

        return Latent(
            self.expected,
            scores=TrainedScores(zeros, slope),
            score=lambda leaf: jax.nn.sigmoid(leaf.scores) - self.threshold * risen(leaf.count),
            counts=enough,
            gradient=lambda leaf: jnp.where(leaf.active, leaf.grad, 0.0),
        )


def enough(scores: Array, layout: Layout) -> Array:
    """As many as have a positive score, and at least 0.5 % and one more."""
    return jnp.maximum(above_zero(scores, layout), int(_LEAST * layout.units) + 1)
