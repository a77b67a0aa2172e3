"""What an optimizer keeps beside weights is watched like weights, in every kind of method."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from dst.train import loop
from dst.train.nonfinite import Diverged
from dst.train.records import checkpoint
from tests.training import small


@jax.custom_vjp
def silent(x):
    """Zero, whose gradient is no number."""
    return jnp.zeros([])


silent.defvjp(lambda x: (jnp.zeros([]), x), lambda x, _: (jnp.full_like(x, jnp.nan),))


def objective(model, batch, key):
    """A loss that stays finite whatever the weights are."""
    return 1.0 + silent(model.out.kernel[...]), {"accuracy": jnp.float32(0)}


METHODS = {
    "sr-ste": {"name": "sr-ste"},
    "edge-popup": {"name": "edge-popup", "sparsity": 0.5},
    "snfs": {"name": "snfs", "sparsity": 0.5, "every": 15, "stop": 18},
    "rigl": {"name": "rigl", "sparsity": 0.5, "every": 5, "stop": 15},
    "top-k-weights": {"name": "top-k-weights", "sparsity": 0.5},
    "mask-decay": {"name": "mask-decay"},
}
FAST = ("edge-popup",)


@pytest.mark.parametrize(
    "method", [x if x in FAST else pytest.param(x, marks=pytest.mark.evidence) for x in METHODS]
)
def test_nan_gradients_under_a_finite_loss_stop_the_run(method, tmp_path):
    overrides = [
        "train.steps=20",
        'objective={"import": "tests.train.test_finite:objective"}',
        "optimizer.clip=null",
    ]
    config = small(tmp_path, *overrides, f"method={METHODS[method]}")
    with pytest.raises(Diverged, match="not finite"):
        loop.train(config, tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [0]
