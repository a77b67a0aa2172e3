"""Relufication: ReLUs in the place of smooth activations, and after the norms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from flax import nnx

from dst.activations.calibration import Calibration
from dst.activations.sites import ACTIVATION, MATRICES, Replacement, Sparse
from dst.core import checks
from dst.core.typing import Array

_AFTER_NORMS = ("query", "key", "value", "gate", "up")


class Rectified(Sparse):
    """``max(x - shift, 0)`` in the place of an activation.

    Args:
      former: the activation that was there; it is not computed.
      shift: a number.
    """

    def __init__(self, former: Any, shift: float):
        super().__init__(former)
        self.shift = shift

    def __call__(self, x: Array) -> Array:
        return nnx.relu(x - self.shift if self.shift else x)


class RectifiedInput(Sparse):
    """``former(max(x, 0))``: a layer whose negative inputs are zero."""

    def __call__(self, x: Array) -> Array:
        return self.former(nnx.relu(x))


@dataclass(frozen=True)
class Relufication:
    """Replaces ``activation(gate(x))`` by ``max(gate(x) - shift, 0)``; fine-tuning has to follow.

    Stage 2 also sets the negative outputs of the norms to zero, which are the inputs of ``query``,
    ``key``, ``value``, ``gate`` and ``up``. It looks at no data, so ``apply`` needs no batches.

    Args:
      stage: 1 or 2.
      shift: of the ReLU that replaces the activation, at least 0.

    Raises:
      ValueError: another stage, or a negative shift.

    Example:
      >>> import jax.numpy as jnp
      >>> from dst.activations import apply
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 16, width=8, layers=1, heads=2, hidden=32, rngs=nnx.Rngs(0))
      >>> found = apply(model, Relufication(), [jnp.arange(16).reshape(2, 8)])
      >>> 0.3 < float(found["down"][0]) < 0.7
      True

    References: Mirzadeh et al. 2023, "ReLU strikes back: exploiting activation sparsity in large
    language models" (arXiv 2310.04564).
    Checked against: NumPy, tests/activations/test_methods.py::
    test_relufied_models_compute_what_numpy_says. The paper has no code.
    """

    stage: Literal[1, 2] = 1
    shift: float = 0.0

    def __post_init__(self) -> None:
        checks.integer("stage of Relufication", self.stage, at_least=1, at_most=2)
        checks.at_least_zero("shift of Relufication", self.shift)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Whose inputs become sparse."""
        return tuple(x for x in MATRICES if x == "down" or (self.stage == 2 and x in _AFTER_NORMS))

    def replacements(self, data: Calibration) -> dict[str, Replacement]:
        """The same modules in every layer."""
        found = {ACTIVATION: Replacement(partial(Rectified, shift=self.shift))}
        after = _AFTER_NORMS if self.stage == 2 else ()
        return found | {name: Replacement(RectifiedInput) for name in after}
