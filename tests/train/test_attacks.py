"""Laws of attacks: perturbations stay in their ball, and are the worst ones where those are known.

The loss of a linear classifier of two classes rises along one direction ``v``. So the worst input
of a ball is ``x + epsilon sign(v)`` or ``x + epsilon v / |v|``.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from dst.train.attacks import FGSM, PGD, Ball, as_function

RANDOM = np.random.default_rng(0)
N, D = 6, 5
X = RANDOM.normal(size=(N, D)).astype(np.float32)
V = RANDOM.normal(size=D).astype(np.float32)


def rising(x):
    """A loss that rises along V, not along a line."""
    return jax.nn.softplus(x @ jnp.asarray(V))


def worst(norm, epsilon):
    step = np.sign(V) if norm == "linf" else V / np.linalg.norm(V)
    return np.broadcast_to(epsilon * step, X.shape)


ATTACKS = {
    "fgsm": FGSM,
    "pgd": partial(PGD, steps=8, start="zero"),
    "pgd, normal start": partial(PGD, steps=16, step_size=0.2, start="normal"),
    "pgd, uniform start": partial(PGD, steps=16, step_size=0.2),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_find_the_worst_input_of_a_linear_classifier(name, norm):
    attack = ATTACKS[name](Ball(0.2, norm))
    delta = jax.jit(partial(attack, rising))(X, jax.random.key(0))
    # A step as long as the radius halves what is left of a random start across V.
    np.testing.assert_allclose(delta, worst(norm, 0.2), atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_of_the_usual_size_come_near_the_worst_input_from_any_start(norm):
    """From a random start in an L2 ball, ``(1 + 2.5 / n)^-n`` of what lies across V is left."""
    delta = np.asarray(PGD(Ball(0.2, norm), 20)(rising, jnp.asarray(X), jax.random.key(1)))
    best = (worst(norm, 0.2) @ V).max()
    assert (delta @ V >= (1 - 1e-6 if norm == "linf" else 0.95) * best).all()


def test_clipped_inputs_move_as_far_as_their_range_allows():
    ball = Ball(0.4, clip=(-1.0, 1.0))
    inside = jnp.clip(X, -1, 1)
    delta = FGSM(ball)(rising, inside)
    expected = np.clip(np.asarray(inside) + 0.4 * np.sign(V), -1, 1)
    np.testing.assert_allclose(ball.moved(inside, delta), expected, atol=1e-6)


def test_a_perturbation_is_cut_to_the_range_of_its_input():
    found = Ball(0.5, clip=(0.0, 1.0)).project(
        jnp.array([[2.0, -2.0, 2.0]]), jnp.array([[0.2, 0.2, 0.9]])
    )
    np.testing.assert_allclose(found, [[0.5, -0.2, 0.1]], atol=1e-6)


def test_radius_and_range_are_in_raw_units():
    """Raw inputs in [0, 1], normalised per channel; two units of the network are 0.5 raw ones."""
    mean, std = np.float32([0.5, 0.25, 0.0]), np.float32([0.25, 0.5, 1.0])
    raw = RANDOM.random((4, 2, 3)).astype(np.float32)
    ball = Ball(0.1, clip=(0.0, 1.0), mean=tuple(map(float, mean)), std=tuple(map(float, std)))
    inputs = jnp.asarray((raw - mean) / std)
    ball.check(inputs)
    delta = FGSM(ball)(lambda x: x.sum((1, 2)), inputs)
    moved = np.asarray(ball.moved(inputs, delta)) * std + mean
    np.testing.assert_allclose(moved, np.minimum(raw + 0.1, 1), atol=1e-6)


def numpy_pgd(x, grad_of, epsilon, steps, size, low, high, start):
    """pgd_attack.py of MadryLab/cifar10_challenge."""
    there = x + start
    for _ in range(steps):
        there = there + size * np.sign(grad_of(there))
        there = np.clip(there, x - epsilon, x + epsilon)
        there = np.clip(there, low, high)
    return there


def test_pgd_equals_its_authors_code_on_a_network():
    first = RANDOM.normal(size=(D, 7)).astype(np.float32)
    second = RANDOM.normal(size=7).astype(np.float32)
    x = RANDOM.random((N, D)).astype(np.float32)

    def loss(x):
        return jnp.tanh(x @ first) @ second

    def grad_of(x):
        hidden = np.tanh(x.astype(np.float64) @ first)
        return ((1 - hidden**2) * second) @ first.T

    ball = Ball(0.1, clip=(0.0, 1.0))
    attack = PGD(ball, steps=7, step_size=0.03, start="zero")
    found = ball.moved(jnp.asarray(x), attack(loss, jnp.asarray(x), jax.random.key(0)))
    expected = numpy_pgd(x.astype(np.float64), grad_of, 0.1, 7, 0.03, 0, 1, 0.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(
    epsilon=st.floats(0, 10, width=32),
    norm=st.sampled_from(["linf", "l2"]),
    clip=st.sampled_from([None, (-1.0, 1.0), (0.0, 0.5)]),
    size=st.sampled_from([None, 0.01, 3.0]),
    start=st.sampled_from(["uniform", "normal", "zero"]),
    seed=st.integers(0, 2**31),
)
def test_perturbations_never_leave_their_ball(epsilon, norm, clip, size, start, seed):
    random = np.random.default_rng(seed)
    x = jnp.asarray(random.normal(size=(3, 4)).astype(np.float32) * 2)
    matrix = random.normal(size=(4, 4)).astype(np.float32)
    ball = Ball(float(epsilon), norm, clip)
    each = jnp.asarray(random.random(3).astype(np.float32) * np.float32(epsilon))

    def loss(x):
        return jnp.sin(x @ matrix).sum(-1)

    for radius in (None, each):
        bound = np.broadcast_to(np.float32(epsilon) if radius is None else radius, 3)
        for attack in (FGSM(ball), PGD(ball, 2, size, start)):
            delta = attack(loss, x, jax.random.key(seed % 1000), radius)
            assert np.isfinite(delta).all()
            sizes = np.asarray(delta, np.float64)
            sizes = np.abs(sizes).max(-1) if norm == "linf" else np.sqrt((sizes**2).sum(-1))
            assert (sizes <= bound * (1 if norm == "linf" else 1 + 1e-6) + 1e-37).all()
            if clip is not None:
                moved = np.asarray(ball.moved(x, delta))
                low, high = np.minimum(clip[0], x), np.maximum(clip[1], x)
                assert (low <= moved).all() and (moved <= high).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_fill_the_ball_uniformly(norm):
    x = jnp.zeros((4000, 2))
    drawn = np.asarray(Ball(2.0, norm).drawn(x, jax.random.key(1)))
    sizes = np.abs(drawn).max(-1) if norm == "linf" else np.linalg.norm(drawn, axis=-1)
    # A fraction r^2 of a square or a disc lies within r of its middle.
    for share in (0.25, 0.5, 0.75):
        assert (sizes <= 2 * np.sqrt(share)).mean() == pytest.approx(share, abs=0.03)
    assert np.abs(drawn.mean(0)).max() < 0.06


def test_gradients_of_any_size_give_a_direction_of_length_one():
    grad = jnp.array([[3e-25, 4e-25], [3e18, -4e18], [0.0, 0.0]])
    found = Ball(1.0, "l2").steepest(grad)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.6, -0.8], [0, 0]], rtol=1e-5)


def test_an_attack_leaves_a_network_as_it_was_and_sends_it_no_gradient():
    class Network(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(D, rngs=nnx.Rngs(0))
            self.out = nnx.Linear(D, 2, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.out(self.norm(x))

    model = Network()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def moved(params):
        tested = as_function(nnx.merge(graph, params, rest))
        delta = PGD(Ball(0.1), 3)(lambda x: tested(x)[:, 0], jnp.asarray(X), jax.random.key(0))
        return jnp.sum(X + delta)

    assert not any(np.asarray(x).any() for x in jax.tree.leaves(jax.grad(moved)(params)))
    np.testing.assert_array_equal(model.norm.mean.get_value(), np.zeros(D))
    model.eval()
    expected = np.asarray(model(jnp.asarray(X)))
    model.train()
    np.testing.assert_allclose(as_function(model)(jnp.asarray(X)), expected, rtol=1e-5)


BAD = {
    "a negative radius": (lambda: Ball(-0.1), "epsilon must be a finite number >= 0"),
    "an unknown norm": (lambda: Ball(0.1, "l1"), r"norm must be one of \['linf', 'l2'\]"),
    "a range the wrong way": (lambda: Ball(0.1, clip=(1.0, 0.0)), "smallest and the largest"),
    "a deviation of zero": (lambda: Ball(0.1, std=(1.0, 0.0)), r"std\[1\] must be"),
    "no steps": (lambda: PGD(Ball(0.1), 0), "steps must be an integer >= 1"),
    "integers": (lambda: Ball(0.1).check(np.zeros((2, 3), np.int32)), "must be real numbers"),
    "other channels": (
        lambda: Ball(0.1, std=(1.0, 2.0)).check(np.zeros((2, 3), np.float32)),
        "one per entry of the last axis",
    ),
    "normalised inputs": (
        lambda: Ball(0.1, clip=(0.0, 1.0)).check(np.full((2, 3), -1.5, np.float32)),
        "raw inputs go from -1.5 to -1.5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_meaning_is_refused(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
