"""CHESS: thresholds of channels by what they cost in the output; queries and outputs, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from dst.activations import quantiles
from dst.activations.calibration import Calibration, Call
from dst.activations.sites import ACTIVATION, Replacement
from dst.activations.threshold import Thresholded, ThresholdedInput, over
from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array


def squares(call: Call) -> Array:
    """``E_j``: the mean square of each channel that leaves a layer, ``[channels]``."""
    channels = call.outputs.astype(jnp.float32).reshape(-1, call.outputs.shape[-1])
    return jnp.mean(jnp.square(channels), axis=0)


def importance(call: Call) -> Array:
    """``a_j^2 E_j`` of every entry that leaves the activation, with ``E`` given."""
    a = call.outputs.astype(jnp.float32)
    return jnp.square(a) * over(a, call.given)


def channel_thresholds(importance: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """``sqrt(tau / E_j)``, ``[layers, channels]``; channels without ``E`` are never needed.

    Args:
      importance: ``tau``, ``[layers]``.
      squares: ``E``, ``[layers, channels]``.

    Example:
      >>> channel_thresholds(np.array([1.0]), np.array([[4.0, 0.0]])).tolist()
      [[0.5, inf]]
    """
    with np.errstate(divide="ignore"):
        return np.where(squares > 0, np.sqrt(importance[:, None] / squares), np.inf)


@named("chess")
@dataclass(frozen=True)
class CHESS:
    """Sets ``a = activation(gate(x))`` to zero where ``|a_j| <= sqrt(tau / E_j)``.

    ``E_j`` is the mean square of channel ``j`` of ``up(x)``, and ``tau`` the mean over batches of
    the k-th smallest ``a_j^2 E_j`` of a batch, ``k = floor(sparsity n)``. The inputs of ``query``
    and ``output`` are zero where they are small: one threshold per layer. ``key`` and ``value``
    stay dense.

    Args:
      sparsity: of the activations and of both inputs, in [0, 1).

    Raises:
      ValueError: a sparsity out of range; from ``apply``: one that cannot be met.

    Example:
      >>> from flax import nnx
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> sorted(apply(model, CHESS(0.5), [jnp.arange(16).reshape(2, 8)]))
      ['down', 'output', 'query']

    References: He et al. 2024, "CHESS: Optimizing LLM inference via channel-wise thresholding and
    selective sparsification" (arXiv 2409.01366).
    Checked against: junhuihe-hjh/CHESS at 49802b16, llama_3_8b/statistics.ipynb, by a table worked
    out by hand: tests/activations/test_methods.py::test_cats_and_chess_keep_what_the_table_says.
    Later code, CHESS/notebooks/thresholds.py at 293ca881, has ``mean |u_j|`` for ``sqrt(E_j)``.
    Differs from its code: both passes see the same batches.
    """

    sparsity: float = 0.5
    matrices: ClassVar[tuple[str, ...]] = ("query", "output", "down")

    def __post_init__(self) -> None:
        checks.fraction("sparsity of CHESS", self.sparsity, below_one=True)

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """Thresholds of channels for the activations, and of two inputs."""
        squared = data.means({"up": squares}, shape=(data.outputs("up"),))["up"]
        of = {ACTIVATION: importance, "query": quantiles.inputs, "output": quantiles.inputs}
        found = quantiles.quantiles(data, self.sparsity, of, {ACTIVATION: squared})
        channels = channel_thresholds(found[ACTIVATION], squared)
        return {
            ACTIVATION: Replacement(Thresholded, channels),
            "query": Replacement(ThresholdedInput, found["query"]),
            "output": Replacement(ThresholdedInput, found["output"]),
        }
