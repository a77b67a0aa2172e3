"""ProSparse: a ReLU, an L1 term that grows in stages, and at last a threshold of the ReLU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from dst.activations.calibration import Calibration, Call, probe, totals
from dst.activations.sites import ACTIVATION, Replacement, check
from dst.activations.threshold import WithThreshold
from dst.core import checks
from dst.core.typing import Array, ArrayLike, Float, Int


@dataclass(frozen=True)
class Progressive:
    """The factor of the L1 term by the training step: ``lambda(step)``.

    0 up to ``start``, where the model gets used to its ReLU. ``factors[0]`` up to ``ends[0]``, the
    warm-up. Stage ``i`` then goes along a sine, with ``r`` from 0 at ``ends[i-1]`` to 1 at
    ``ends[i]``::

        factors[i-1] + (factors[i] - factors[i-1]) (sin(pi r - pi / 2) + 1) / 2

    After the last stage it stays. Equal factors are a plateau. The defaults are those of
    LLaMA-2-7B, where ``start`` was 5000.

    Args:
      factors: of the stages, each at least 0.
      ends: the last step of each stage, increasing.
      start: the last step without an L1 term.

    Raises:
      ValueError: other numbers of factors and ends, ends that do not increase from ``start``, a
        negative factor.

    Example:
      >>> schedule = Progressive(factors=(0.0, 1.0), ends=(10, 20))
      >>> [round(float(schedule(step)), 4) for step in (5, 15, 30)]
      [0.0, 0.5, 1.0]

    References: Song et al. 2024, "ProSparse: Introducing and enhancing intrinsic activation
    sparsity within large language models" (arXiv 2402.13516), section 3.2 and appendix.
    Checked against: its formula and stages, by numbers worked out in Python,
    tests/activations/test_prosparse.py::test_the_factor_grows_along_sines.
    """

    factors: tuple[float, ...] = (5e-3, 5e-2, 5e-2, 2e-1, 2e-1)
    ends: tuple[int, ...] = (6000, 10_000, 12_000, 16_000, 16_500)
    start: int = 0

    def __post_init__(self) -> None:
        checks.not_empty("factors of Progressive", self.factors)
        for factor in self.factors:
            checks.at_least_zero("factors of Progressive", factor)
        steps = (self.start, *self.ends)
        if len(self.factors) != len(self.ends) or any(np.diff(steps) <= 0) or self.start < 0:
            raise ValueError(
                "Progressive must have as many ends as factors, which increase from its start, got "
                f"factors {self.factors}, ends {self.ends}, start {self.start}."
            )

    def __call__(self, step: ArrayLike) -> Float[Array, ""]:
        """The factor at a step, which may be traced: float32."""
        step = jnp.asarray(step, jnp.float32)
        begins, ends = jnp.float32((0, *self.ends[:-1])), jnp.float32(self.ends)
        before, after = (self.factors[0], *self.factors[:-1]), self.factors
        stage = jnp.minimum(jnp.searchsorted(ends, step), len(self.ends) - 1)
        share = jnp.clip((step - begins[stage]) / (ends[stage] - begins[stage]), 0, 1)
        rise = (jnp.sin(math.pi * share - math.pi / 2) + 1) / 2
        low, high = jnp.float32(before)[stage], jnp.float32(after)[stage]
        return jnp.where(step <= self.start, 0.0, low + rise * (high - low))


def with_l1(
    model: Any, tokens: Int[Array, "batch length"]
) -> tuple[Float[Array, "batch length classes"], Float[Array, ""]]:
    """Logits of a decoder, and the L1 norm of what enters ``down``, to be added to a loss.

    ``sum over layers of mean over tokens of sum over channels of |x|``. It is differentiable, and
    may be compiled as a part of a training step. The model stays as it is.

    Args:
      model: a :class:`dst.models.Decoder`.
      tokens: int ``[batch, length]``.

    Raises:
      ValueError: another model.

    Example:
      >>> from flax import nnx
      >>> from dst.models import Decoder
      >>> sizes = {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "activation": "relu"}
      >>> model = Decoder((8,), 16, **sizes, rngs=nnx.Rngs(0))
      >>> logits, l1 = with_l1(model, jnp.arange(8)[None])
      >>> loss = logits.mean() + Progressive()(7000) * l1

    References: Song et al. 2024 (arXiv 2402.13516), section 3.2. The paper does not say how tokens
    are reduced.
    Checked against: NumPy, tests/activations/test_prosparse.py::test_l1_is_that_of_numpy.
    """
    check(model)
    seen = probe(model, {"down": _norm})
    logits = seen(tokens)
    return logits, totals(seen, "down").sum()


def _norm(call: Call) -> Array:
    return jnp.abs(call.inputs.astype(jnp.float32)).sum(axis=-1).mean()


class FATReLUActivation(WithThreshold):
    """``x`` where ``x >= threshold``, else 0, in the place of an activation.

    Args:
      former: the activation that was there; it is not computed.
      threshold: ``[]``; of stacked blocks ``[layers]``.
    """

    def __call__(self, x: Array) -> Array:
        return fat_relu(x, self.threshold.get_value())


def fat_relu(x: Array, threshold: ArrayLike) -> Array:
    """``x`` where ``x >= threshold``, else 0.

    Example:
      >>> fat_relu(jnp.array([-1.0, 0.5, 1.0]), 1.0).tolist()
      [0.0, 0.0, 1.0]
    """
    return jnp.where(x < threshold, 0, x)  # NaN stays NaN


@dataclass(frozen=True)
class FATReLU:
    """Replaces the activation by ``x`` where ``x >= threshold``, else 0.

    For decoders that were trained with ``activation="relu"``, the last step of ProSparse. It looks
    at no data, so ``apply`` needs no batches.

    Args:
      threshold: above 0. The paper has 0.01 and tried 0.005 to 0.03.

    Raises:
      ValueError: a threshold that is not above 0.

    Example:
      >>> from flax import nnx
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> sizes = {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "activation": "relu"}
      >>> model = Decoder((8,), 16, **sizes, rngs=nnx.Rngs(0))
      >>> sorted(apply(model, FATReLU(0.01), [jnp.arange(8)[None]]))
      ['down']

    References: Kurtz et al. 2020, "Inducing and exploiting activation sparsity for fast inference
    on deep neural networks" (ICML 2020); as in Song et al. 2024 (arXiv 2402.13516).
    Checked against: a table worked out by hand, tests/activations/test_prosparse.py::
    test_fat_relu_keeps_what_reaches_the_threshold.
    """

    threshold: float = 0.01
    matrices: ClassVar[tuple[str, ...]] = ("down",)

    def __post_init__(self) -> None:
        checks.above_zero("threshold of FATReLU", self.threshold)

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """The same threshold in every layer."""
        return {ACTIVATION: Replacement(FATReLUActivation, np.full(data.layers, self.threshold))}
