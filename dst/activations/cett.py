"""CETT: neurons whose outputs matter least are left out, up to an error, or up to a perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.activations.calibration import Calibration, Call
from dst.activations.quantiles import kth_smallest
from dst.activations.sites import Replacement
from dst.activations.threshold import ThresholdedInput, over
from dst.core import checks
from dst.core.typing import Array, ArrayLike, Float

_HIGHEST = 0.99  # quantile of the norms beyond which no threshold is looked for
_HALVINGS = 20  # of the interval of thresholds


def output_norms(
    x: Float[Array, "*tokens hidden"], kernel: Float[Array, "hidden width"]
) -> Float[Array, "*tokens hidden"]:
    """The norm of what each neuron adds to the output: ``|x_i| ||W_i||_2``.

    Args:
      x: what enters ``down``.
      kernel: of ``down``; row ``i`` belongs to neuron ``i``.

    Example:
      >>> output_norms(jnp.array([2.0]), jnp.array([[3.0, 4.0]])).tolist()
      [10.0]
    """
    return jnp.abs(x) * over(x, jnp.linalg.norm(kernel, axis=-1))


def cett(
    x: Float[Array, "*tokens hidden"], kernel: Float[Array, "hidden width"], threshold: ArrayLike
) -> Float[Array, ""]:
    """The error of leaving out all neurons with an output norm of at most ``threshold``.

    ``mean over tokens of ||sum over left out i of x_i W_i||_2 / ||x W||_2``, the cumulative errors
    of tail truncation. Tokens without any output have none.

    Args:
      x: what enters ``down``.
      kernel: of ``down``.
      threshold: epsilon, at least 0.

    Example:
      >>> round(float(cett(jnp.array([[3.0, 4.0]]), jnp.eye(2), 3.0)), 4)
      0.6

    References: Luo et al. 2024, "Sparsing law: towards large language models with greater
    activation sparsity" (arXiv 2411.02335).
    Checked against: a table worked out in NumPy, tests/activations/test_cett.py::
    test_the_error_is_that_of_the_table.
    """
    left_out = jnp.where(output_norms(x, kernel) > threshold, 0, x) @ kernel
    whole = jnp.linalg.norm(x @ kernel, axis=-1)
    ratio = jnp.linalg.norm(left_out, axis=-1) / jnp.where(whole > 0, whole, 1)
    return ratio.mean()


def largest_threshold(
    x: Float[Array, "*tokens hidden"], kernel: Float[Array, "hidden width"], error: ArrayLike
) -> Float[Array, ""]:
    """The largest threshold of output norms whose :func:`cett` is at most ``error``.

    By bisection between 0 and the 0.99 quantile of the norms, to a millionth of it.

    Example:
      >>> x, kernel = jnp.array([[3.0, 4.0]]), jnp.eye(2)
      >>> float(cett(x, kernel, largest_threshold(x, kernel, 0.1)))
      0.0

    Checked against: the same table, tests/activations/test_cett.py::
    test_the_largest_threshold_is_just_below_the_norm_that_is_too_much.
    """
    error = jnp.asarray(error, jnp.float32)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        fits = cett(x, kernel, middle) <= error
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    highest = kth_smallest(output_norms(x, kernel), _HIGHEST)
    return lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(highest), highest))[0]


def _largest(call: Call) -> Array:
    x, kernel = call.inputs.astype(jnp.float32), call.module.kernel.get_value()
    return largest_threshold(x, kernel.astype(jnp.float32), call.given)


def _replacements(data: Calibration, error: float) -> dict[str, Replacement]:
    found = data.means({"down": _largest}, {"down": np.full(data.layers, error, np.float32)})
    rows = data.by_layer("down", lambda x: jnp.linalg.norm(x.kernel.get_value(), axis=-1))
    with np.errstate(divide="ignore"):
        channels = np.where(rows > 0, found["down"][:, None] / rows, np.inf)
    return {"down": Replacement(ThresholdedInput, channels)}


@dataclass(frozen=True)
class CETT:
    """Leaves out the neurons of smallest output norm, as many as an error per layer allows.

    Neuron ``i`` is left out where ``|x_i| ||W_i||_2 <= epsilon``, with ``x`` what enters ``down``
    and ``W`` its kernel. ``epsilon`` of a layer is the largest one with :func:`cett` at most
    ``error``, the mean over batches.

    Args:
      error: in [0, 1).

    Raises:
      ValueError: an error out of range.

    Example:
      >>> from flax import nnx
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> found = apply(model, CETT(0.2), [jnp.arange(16).reshape(2, 8)])
      >>> bool((found["down"] > 0.2).all())
      True

    References: Luo et al. 2024 (arXiv 2411.02335).
    Checked against: thunlp/SparsingLaw at 0f023d7f, src/model_utils.py
    (calc_thresholds_given_cett), by a search over all thresholds in NumPy:
    tests/activations/test_cett.py::test_thresholds_are_the_largest_within_the_error.
    Differs from its code: the interval of thresholds is halved, where the code has 65536
    candidates; of several batches the thresholds are averaged.
    """

    error: float = 0.2
    matrices: ClassVar[tuple[str, ...]] = ("down",)

    def __post_init__(self) -> None:
        checks.fraction("error of CETT", self.error, below_one=True)

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """A threshold for each channel that enters ``down``."""
        return _replacements(data, self.error)


@dataclass(frozen=True)
class PPL:
    """The largest sparsity that raises perplexity by at most ``percent``: PPL-p% sparsity.

    The error of :class:`CETT` is the same in all layers and is bisected: the largest one with
    ``exp(loss_sparse - loss_dense) < 1 + percent / 100`` on the batches. Each halving is two passes
    over them.

    Args:
      percent: p, above 0.
      tolerance: to which the error is found, above 0.

    Raises:
      ValueError: a number out of range; from ``apply``: a loss that is not finite.

    Example:
      >>> from flax import nnx
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> found = apply(model, PPL(1.0, tolerance=0.1), [jnp.arange(16).reshape(2, 8)])
      >>> bool((found["down"] > 0).all())
      True

    References: Luo et al. 2024 (arXiv 2411.02335).
    Checked against: thunlp/SparsingLaw at 0f023d7f, src/calc_activation.py
    (calc_cett_for_target_ppl_ratio), by the definition:
    tests/activations/test_cett.py::test_perplexity_stays_within_the_percentage.
    Differs from its code: the result is the last error within the bound, where the code takes the
    middle of the last interval.
    """

    percent: float = 1.0
    tolerance: float = 1e-6
    matrices: ClassVar[tuple[str, ...]] = ("down",)

    def __post_init__(self) -> None:
        checks.above_zero("percent of PPL", self.percent)
        checks.above_zero("tolerance of PPL", self.tolerance, at_most=1)

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """A threshold for each channel that enters ``down``."""
        dense, allowed = data.loss(), math.log1p(self.percent / 100)
        if not math.isfinite(dense):
            raise ValueError(f"the loss of the model without zeros must be finite, got {dense}.")
        low, high = 0.0, 1.0
        chosen = _replacements(data, low)
        while high - low > self.tolerance:
            middle = (low + high) / 2
            tried = _replacements(data, middle)
            if data.behind(tried).loss() - dense < allowed:
                low, chosen = middle, tried
            else:
                high = middle
        return chosen
