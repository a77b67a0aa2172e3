"""What an optimizer keeps beside weights is watched like weights, in every kind of method."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import dst
from dst.methods import METHODS, PRESETS
from dst.train import loop, step
from dst.train.nonfinite import Diverged
from dst.train.records import checkpoint
from tests import faults
from tests.training import small, states_in


@jax.custom_vjp
def silent(x):
    """Zero, whose gradient is no number."""
    return jnp.zeros([])


silent.defvjp(lambda x: (jnp.zeros([]), x), lambda x, _: (jnp.full_like(x, jnp.nan),))


def objective(model, batch, key):
    """A loss that stays finite whatever the weights are."""
    return 1.0 + silent(model.out.kernel[...]), {"accuracy": jnp.float32(0)}


SILENT = {
    "sr-ste": {"name": "sr-ste"},
    "edge-popup": {"name": "edge-popup", "sparsity": 0.5},
    "snfs": {"name": "snfs", "sparsity": 0.5, "every": 15, "stop": 18},
    "rigl": {"name": "rigl", "sparsity": 0.5, "every": 5, "stop": 15},
    "top-k-weights": {"name": "top-k-weights", "sparsity": 0.5},
    "mask-decay": {"name": "mask-decay"},
}
FAST = ("edge-popup",)


@pytest.mark.parametrize(
    "method", [x if x in FAST else pytest.param(x, marks=pytest.mark.evidence) for x in SILENT]
)
def test_nan_gradients_under_a_finite_loss_stop_the_run(method, tmp_path):
    overrides = [
        "train.steps=20",
        'objective={"import": "tests.train.test_finite:objective"}',
        "optimizer.clip=null",
    ]
    config = small(tmp_path, *overrides, f"method={SILENT[method]}")
    with pytest.raises(Diverged, match="not finite"):
        loop.train(config, tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [0]


WINDOW = {"every": 10, "start": 10, "stop": 30}
EVERY_KIND = {
    "dense": {},
    "static": {"sparsity": 0.5},
    "set": {"sparsity": 0.5, "every": 10},
    "rigl": {"sparsity": 0.5, "every": 10, "accumulate": 4},
    "rigl-itop": {"sparsity": 0.5, "every": 10},
    "snfs": {"sparsity": 0.5, "every": 10},
    "mest": {"sparsity": 0.5, "extra": [0.1, 0.0], "stages": [20], "every": 10},
    "mest-resnet": {
        "sparsity": 0.5,
        "extra": [0.1, 0.0],
        "stages": [20],
        "every": 10,
        "allocation": "uniform",  # its own names layers of convolutional networks
    },
    "srigl": {"sparsity": 0.5, "every": 10},
    "granet": {"sparsity": 0.5, "every": 10, "prune_stop": 30},
    "ac-dc": {"sparsity": 0.5, **WINDOW},
    "gmp": {"sparsity": 0.5, **WINDOW},
    "snip": {"sparsity": 0.5},
    "iterative-snip": {"sparsity": 0.5, "rounds": 5},
    "force": {"sparsity": 0.5, "rounds": 5},
    "grasp": {"sparsity": 0.5},
    "synflow": {"sparsity": 0.5, "rounds": 5},
    "snip-ratio": {"sparsity": 0.5},
    "asp": {},
    "spdf": {"sparsity": 0.5, "lift": 10},
    "dsr": {"sparsity": 0.5, "exchanged": 50, "threshold": 0.01, "every": 10},
    "gse": {"sparsity": 0.5, "every": 10},
    "chts": {"sparsity": 0.5, "every": 10},
    "smet": {"sparsity": 0.5, "every": 10},
    "journey": {"sparsity": 0.5, "compute": False, **WINDOW},
    "set-itop": {"sparsity": 0.5, "every": 10},
    "movement": {"sparsity": 0.5, "start": 10, "stop": 30},
    "powerprop": {"sparsity": 0.5, "prune": 20},
    "top-kast": {"sparsity": 0.5, "backward_sparsity": 0.3},
    "sr-ste": {},
    "s-ste": {},
    "t-sr-ste": {"n": 1, "m": 2, "every": 10},
    "spartan": {"sparsity": 0.5},
    "continuous-sparsification": {"expected": 0.5},
    "l0": {"expected": 0.5, "penalty": 1e-6},
    "soft-movement": {"expected": 0.5},
    "trainable-thresholds": {"expected": 0.5},
    "str": {"expected": 0.5, "start": -2.0},
    "mask-decay": {"start": 10, "stop": 30},
    "mask-llm": {},
    "structure-decay": {"start": 10, "stop": 30},
    "edge-popup": {"sparsity": 0.5},
    "hydra": {"sparsity": 0.5},
    "piggyback": {"expected": 0.5},
    "top-k-weights": {"sparsity": 0.5},
}


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
@pytest.mark.parametrize(
    "method",
    [x if x in FAST else pytest.param(x, marks=pytest.mark.evidence) for x in EVERY_KIND],
)
def test_every_policy_with_every_kind_of_method(method, policy, tmp_path, monkeypatch, capsys):
    """Two bad batches: the 17th step is an ordinary one, the 21st changes the topology."""
    given = {"name": method, **EVERY_KIND[method]}
    config = small(tmp_path, f"train.on_nonfinite={policy}", f"method={given}")
    run = tmp_path / "run"
    with faults.before_step(monkeypatch, {}, bad=(17, 21)):
        if policy == "stop":
            with pytest.raises(Diverged):
                loop.train(config, run)
        else:
            loop.train(config, run)
    saved = states_in(run)
    assert max(saved) == (10 if policy == "stop" else 40)
    for state in saved.values():
        assert step.finite((state.params, state.variables, step.kept(state.opt_state)))
        dst.check_invariants(state.opt_state, state.params)
    skipped = int(saved[max(saved)].skipped)
    assert skipped == (2 if policy == "skip" else 0)
    assert ("Rolling back to step 10 (1 of 3)" in capsys.readouterr().out) == (policy == "rollback")


def test_every_method_of_the_registry_is_of_a_kind_above():
    assert set(EVERY_KIND) == {*METHODS, *PRESETS} - {"from-masks", "from_masks"}
