"""Laws of adversarial training: losses are sums that NumPy and linear classifiers give."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
from dst.train import data, loop, objectives
from dst.train.config.run import ConfigError
from dst.train.objectives.adversarial import Adversarial
from dst.train.objectives.classification import Classification
from tests.training import assert_same, small, states_in

RANDOM = np.random.default_rng(0)
N, D, CLASSES = 5, 4, 3
X = jnp.asarray(RANDOM.normal(size=(N, D)).astype(np.float32))
Y = jnp.asarray(RANDOM.integers(0, CLASSES, N).astype(np.int32))
W = RANDOM.normal(size=(D, CLASSES)).astype(np.float32)
KEY = jax.random.key(3)


class Linear(nnx.Module):
    """Logits ``x W``, through a hidden layer where asked."""

    def __init__(self, weight, hidden=None):
        self.weight, self.hidden = nnx.Param(jnp.asarray(weight)), hidden

    def __call__(self, x):
        if self.hidden is not None:
            x = jnp.tanh(x @ self.hidden)
        return x @ self.weight[...]


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_loss_of_two_classes_is_that_of_the_worst_input(attack, norm):
    """Logits ``(x v, 0)``: the worst perturbation lowers the margin by ``epsilon |v|*``."""
    v, labels = W[:, 0], np.asarray(Y) % 2
    model = Linear(np.stack([v, np.zeros(D, np.float32)], 1))
    objective = Adversarial(0.3, norm, attack, start="zero")
    loss, found = objective.loss(model, (X, jnp.asarray(labels)), KEY)
    dual = np.abs(v).sum() if norm == "linf" else np.linalg.norm(v)
    margins = (np.asarray(X, np.float64) @ v) * np.where(labels == 0, 1, -1)
    worst = margins - 0.3 * dual
    assert float(loss) == pytest.approx(np.log1p(np.exp(-worst)).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((margins > 0).mean())
    assert found["adversarial_accuracy"] == pytest.approx((worst > 0).mean())


def test_trades_is_the_sum_of_its_two_terms_in_numpy():
    model = Linear(W)
    objective = Adversarial(0.2, variant="trades", beta=3.0, steps=3)
    loss, found = objective.loss(model, (X, Y), KEY)
    clean = np.asarray(X, np.float64) @ W

    def towards(x):
        p, q = jax.nn.log_softmax(jnp.asarray(clean)), jax.nn.log_softmax(x @ W)
        return (jnp.exp(p) * (p - q)).sum(-1)

    moved = X + objective.attacker(towards, X, KEY)
    p, q = log_softmax(clean), log_softmax(np.asarray(moved, np.float64) @ W)
    cross_entropy = -p[np.arange(N), np.asarray(Y)].mean()
    kl = (np.exp(p) * (p - q)).sum(-1).mean()
    assert kl > 0
    assert float(found["cross_entropy"]) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(found["kl"]) == pytest.approx(kl, rel=1e-3)
    assert float(loss) == pytest.approx(cross_entropy + 3 * kl, rel=1e-4)


@pytest.mark.parametrize("variant", ["madry", "trades"])
def test_gradients_are_those_of_the_loss_at_inputs_that_stay(variant):
    """Finite differences, of a loss whose attacked inputs do not follow the weights."""
    hidden = jnp.asarray(RANDOM.normal(size=(D, D)).astype(np.float32))
    objective = Adversarial(0.3, variant=variant, steps=2)
    model = Linear(W, hidden)
    grads = nnx.grad(lambda m: objective.loss(m, (X, Y), KEY)[0])(model)
    found = np.asarray(jax.tree.leaves(grads)[0])
    seen = []

    def spy(x):
        seen.append(x)
        return model(x)

    # The attack calls the model first, the loss last: its inputs are what was seen last.
    objective.loss(spy, (X, Y), KEY)
    x, moved = np.asarray(X, np.float64), np.asarray(seen[-1], np.float64)

    def loss(weight):
        clean, attacked = (
            log_softmax(np.tanh(a @ np.asarray(hidden, np.float64)) @ weight) for a in (x, moved)
        )
        rows = np.arange(N), np.asarray(Y)
        if variant == "madry":
            return -attacked[rows].mean()
        return -clean[rows].mean() + 6 * (np.exp(clean) * (clean - attacked)).sum(-1).mean()

    for i, j in ((0, 0), (1, 2), (3, 1)):
        step = np.zeros((D, CLASSES))
        step[i, j] = 1e-5
        slope = (loss(W + step) - loss(W - step)) / 2e-5
        assert found[i, j] == pytest.approx(slope, rel=2e-3, abs=1e-5)


def test_batch_norm_learns_from_attacked_inputs_and_is_attacked_as_it_is_tested():
    class Normed(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(D, momentum=0.0, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(x)

    model = Normed()
    batch = X, Y
    Adversarial(0.5, attack="fgsm").loss(model, batch, KEY)
    # Statistics 0 and 1: FGSM sees the identity, and the label's own entry falls, others rise.
    moved = np.asarray(X) + 0.5 * np.where(np.arange(D) == np.asarray(Y)[:, None], -1, 1)
    np.testing.assert_allclose(model.norm.mean.get_value(), moved.mean(0), atol=1e-4)


def test_a_radius_of_zero_is_classification():
    model = Linear(W)
    expected, _ = Classification().loss(model, (X, Y), KEY)
    for variant in ("madry", "trades"):
        loss, _ = Adversarial(0.0, variant=variant, steps=2).loss(model, (X, Y), KEY)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)


ADVERSARIAL = "objective={'name': 'adversarial', 'epsilon': 0.2, 'steps': 2}"
SHORT = ("train.steps=12", "train.eval_every=6", "train.checkpoint_every=6", "train.log_every=3")
METHODS = {
    "set": "{'name': 'set', 'sparsity': 0.8, 'every': 4, 'stop': 8}",
    "rigl": "{'name': 'rigl', 'sparsity': 0.8, 'every': 4, 'stop': 8}",
    "edge-popup": "{'name': 'edge-popup', 'sparsity': 0.5}",
    "hydra": "{'name': 'hydra', 'sparsity': 0.5}",
}


@pytest.mark.parametrize(
    "name", [x if x == "rigl" else pytest.param(x, marks=pytest.mark.evidence) for x in METHODS]
)
def test_a_run_of_any_method_resumes_bit_for_bit(name, tmp_path):
    given = small(tmp_path, ADVERSARIAL, *SHORT, f"method={METHODS[name]}")
    loop.train(given, tmp_path / "whole")
    loop.train(given, tmp_path / "run", until=7)
    loop.resume(tmp_path / "run")
    whole, resumed = states_in(tmp_path / "whole"), states_in(tmp_path / "run")
    assert_same(whole[12], resumed[12])
    records = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    last = [x for x in map(json.loads, records) if x["kind"] == "eval"][-1]
    assert last["adversarial_accuracy"] <= last["accuracy"]


@pytest.mark.evidence
def test_admm_pulls_weights_of_adversarial_training_towards_sparse_ones():
    objective = Adversarial(0.1, steps=2)
    tx = dst.admm(optax.sgd(0.1), 0.5, penalty=1.0, every=5)
    params = {"w": jnp.asarray(W)}
    state = tx.init(params)

    @jax.jit
    def step(params, state, i):
        def loss(p):
            return objective.loss(Linear(p["w"]), (X, Y), jax.random.fold_in(KEY, i))[0]

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    def share_of_the_smaller_half(params):
        sizes = np.sort(np.abs(np.asarray(params["w"])).ravel())
        return sizes[: sizes.size // 2].sum() / sizes.sum()

    first = share_of_the_smaller_half(params)
    for i in range(60):
        params, state = step(params, state, i)
    assert share_of_the_smaller_half(params) < first / 2


def section(*overrides):
    values = {"name": "adversarial", "epsilon": 0.1}
    return "objective=" + json.dumps(values | dict(overrides))


BAD = {
    "a range of raw inputs": (
        [section(("clip", [0.0, 1.0]))],
        r"adversarial: clip is \[0.0, 1.0\]",
    ),
    "other channels": ([section(("std", [1.0, 2.0]))], "std must have one number"),
    "no start for trades": (
        [section(("variant", "trades"), ("start", "zero"))],
        "starts beside the input",
    ),
    "a negative weight": ([section(("beta", -1.0))], "beta must be a finite number >= 0"),
    "an unknown norm": ([section(("norm", "l1"))], "norm"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_before_anything_is_written(case, tmp_path):
    overrides, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        loop.train(small(tmp_path, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tokens_are_refused(tmp_path):
    tokens = np.zeros((4, 3), np.int32)
    dataset = data.from_arrays((tokens, tokens[:, 0]), (tokens, tokens[:, 0]))
    with pytest.raises(ValueError, match=r"adversarial: .*must be real numbers, got int32"):
        objectives.chosen(small(tmp_path, ADVERSARIAL).objective, dataset)
    with pytest.raises(ValueError, match="must be real numbers, got int32"):
        Adversarial(0.1).loss(Linear(W), (jnp.zeros((2, D), jnp.int32), Y[:2]), KEY)
