"""Laws of the figures of robustness: those of a linear classifier are its closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import accuracy_score

from dst.eval import robustness
from dst.eval.robustness import FGSM, PGD, Ball
from tests.eval.robustness.linear import LABELS, MARGIN, D, N, X, distances, model


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [FGSM, lambda ball: PGD(ball, 3, start="zero")])
def test_bisection_finds_the_distance_to_the_plane_between_two_classes(attack, norm):
    true = distances(norm)
    farthest = 4.0
    found = robustness.adversarial_distance(
        model, X, LABELS, attack(Ball(0.0, norm)), farthest=farthest, batch_size=10
    )
    assert (found[true == 0] == 0).all() and (true == 0).any()
    assert (found >= true - 1e-5).all()
    np.testing.assert_allclose(found, true, atol=farthest / 2**12 + 1e-5)


def test_what_no_attack_reaches_is_infinitely_far():
    true = distances("linf")
    between = float(np.sort(true)[N // 2] + np.sort(true)[N // 2 + 1]) / 2
    found = robustness.adversarial_distance(
        model, X, LABELS, FGSM(Ball(0.0)), farthest=between, rounds=3
    )
    np.testing.assert_array_equal(np.isinf(found), true > between)


def test_all_figures_of_a_linear_classifier():
    epsilon, true = 0.2, distances("linf")
    found = robustness.judge(
        model, X, LABELS, Ball(epsilon), steps=5, restarts=2, noise=(0.0, 0.3), batch_size=16
    )
    right = MARGIN > 0
    assert found.examples == N and found.accuracy == pytest.approx(right.mean())
    assert found.fgsm == found.pgd == pytest.approx((true > epsilon).mean())
    said = np.argmax(model(jnp.asarray(robustness.noisy(X, 0.3))), -1)
    assert found.corrupted == {
        "noise 0": pytest.approx(right.mean()),
        "noise 0.3": pytest.approx(accuracy_score(LABELS, said)),
    }
    chances = jax.nn.softmax(model(jnp.asarray(X)))
    expected = robustness.calibration_error(chances, jnp.asarray(LABELS))
    assert found.calibration_error == pytest.approx(float(expected), abs=1e-6)
    assert found.distance == pytest.approx(np.median(true), abs=2 * epsilon * 10 / 2**12)


def test_an_answer_must_be_right_at_every_restart():
    """Half of the starts of a loss without slope leave the small region of the right answer."""

    def flat(x):
        away = (jnp.abs(x[:, 0]) > 0.5).astype(jnp.float32)
        return jnp.stack([1 - away, away], -1)

    x, y = np.zeros((200, 1), np.float32), np.zeros(200, np.int32)
    attack = PGD(Ball(1.0), 1)
    for restarts in (1, 3):
        stays = robustness.right_under(flat, x, y, attack, restarts=restarts)
        assert stays.mean() == pytest.approx(0.5**restarts, abs=0.1)


def test_a_flax_module_is_judged_as_it_is_tested():
    class Network(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(D, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
            self.out = nnx.Linear(D, 2, rngs=nnx.Rngs(2))

        def __call__(self, x):
            return self.out(self.drop(self.norm(x)))

    network = Network()
    found = robustness.judge(network, X, LABELS, Ball(0.0), steps=1, restarts=1, noise=())
    network.eval()
    said = np.argmax(network(jnp.asarray(X)), -1)
    assert found.accuracy == found.pgd == pytest.approx((said == LABELS).mean())
    assert np.isinf(found.distances[said == LABELS]).all()  # no radius, so no search


def test_calibration_error_of_a_table_by_hand():
    """Fifteen bins: .95, .95 and .99 are in the last (one right), .55 in the ninth (right)."""
    chances = np.float32([[0.95, 0.05], [0.95, 0.05], [0.01, 0.99], [0.45, 0.55]])
    labels = np.array([0, 1, 0, 1])
    error = jax.jit(robustness.calibration_error)(chances, labels)
    expected = (abs(1 - (0.95 + 0.95 + 0.99)) + abs(1 - 0.55)) / 4
    assert float(error) == pytest.approx(expected, abs=1e-6)
    sure = robustness.calibration_error(jnp.eye(3), jnp.arange(3))
    assert float(sure) == 0


def test_noise_has_its_deviation_in_raw_units_and_stays_in_the_range():
    ball = Ball(0.0, clip=(0.0, 1.0), mean=(0.5,), std=(0.25,))
    x = np.zeros((50, 40, 2), np.float32)  # raw: one half
    found = robustness.noisy(x, 0.1, ball)
    assert found.std() == pytest.approx(0.4, rel=0.05) and found.dtype == np.float32
    strong = robustness.noisy(x, 2.0, ball)
    assert strong.min() == -2 and strong.max() == 2
    np.testing.assert_array_equal(found, robustness.noisy(x, 0.1, ball))
    assert (found != robustness.noisy(x, 0.1, ball, seed=1)).any()


def test_a_blur_is_a_gaussian_in_space_and_leaves_channels_apart():
    x = np.zeros((2, 21, 21, 2), np.float32)
    x[0, 10, 10, 0] = 1
    found = robustness.blurred(x, 1.5)
    place = np.arange(-6, 7)  # four deviations
    weights = np.exp(-(place**2) / (2 * 1.5**2))
    weights /= weights.sum()
    np.testing.assert_allclose(found[0, 4:17, 4:17, 0], np.outer(weights, weights), atol=1e-6)
    assert not found[1].any() and not found[..., 1].any()
    np.testing.assert_allclose(robustness.blurred(x + 3, 2.0)[1], 3, rtol=1e-6)


BAD = {
    "no space": (lambda: robustness.blurred(X, 1.0), r"a blur needs inputs \[n, length"),
    "labels of another length": (
        lambda: robustness.right_under(model, X, LABELS[:3], FGSM(Ball(0.1))),
        r"a class for each.*got \[24, 6\] and 'int32' \[3\]",
    ),
    "tokens": (
        lambda: robustness.judge(model, X.astype(np.int32), LABELS, Ball(0.1)),
        "must be real numbers, got int32",
    ),
    "no restart": (
        lambda: robustness.judge(model, X, LABELS, Ball(0.1), restarts=0),
        "restarts must be an integer >= 1",
    ),
    "no distance": (
        lambda: robustness.adversarial_distance(model, X, LABELS, FGSM(Ball(0.1)), farthest=0.0),
        "farthest must be a finite number > 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_meaning_is_refused(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
