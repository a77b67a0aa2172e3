"""Laws of ECoFLaP: shares by hand, exact counts, scores against NumPy."""

from __future__ import annotations

import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.oneshot.loss import Objective
from dst.oneshot.network import divided

RANDOM = np.random.default_rng(7)
X = [RANDOM.normal(size=(6, 8)).astype(np.float32) for _ in range(2)]
PARAMS = {
    "blocks": [
        {"w": RANDOM.normal(size=(8, 8)).astype(np.float32)},
        {"w": RANDOM.normal(size=(8, 3)).astype(np.float32)},
    ]
}


def forward(p, x):
    return jnp.tanh(x @ p["blocks"][0]["w"]) @ p["blocks"][1]["w"]


def loss(p, x):
    return jnp.square(p["blocks"][0]["w"]).sum() + 3 * (p["blocks"][1]["w"]).sum() + 0 * x.sum()


def test_blocks_share_what_is_kept_by_their_scores():
    shares = dst.ECoFLaP().sparsities(
        {"a": 1.0, "b": 3.0, "c": 6.0}, dict.fromkeys("abc", 1000), 0.5
    )
    assert {b: 1000 * (1 - s) for b, s in shares.items()} == {"a": 430, "b": 490, "c": 580}
    even = dst.ECoFLaP().sparsities({"a": 0.0, "b": 0.0}, {"a": 10, "b": 30}, 0.5)
    assert set(even.values()) == {Fraction(1, 2)}
    full = dst.ECoFLaP(margin=0.5).sparsities({"a": 99.0, "b": 1.0}, {"a": 10, "b": 90}, 0.5)
    assert full == {"a": 0, "b": Fraction(50, 90)}
    small = {"a": 0.02, "b": 1.0}, {"a": 10, "b": 1000}
    averages = [dst.ECoFLaP(average=x).sparsities(*small, 0.5) for x in (False, True)]
    assert [x["a"] for x in averages] == [Fraction(4, 10), 0]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.62, 0.85])
def test_the_number_of_zeros_is_exact(sparsity):
    random = np.random.default_rng(round(100 * sparsity))
    for _ in range(20):
        names = [str(i) for i in range(random.integers(1, 6))]
        sizes = {b: int(random.integers(40, 400)) for b in names}
        scores = {b: float(random.choice([0, random.random()])) for b in names}
        shares = dst.ECoFLaP().sparsities(scores, sizes, sparsity)
        zeros = {b: shares[b] * sizes[b] for b in names}
        total = sum(sizes.values())
        assert sum(zeros.values()) == math.floor(Fraction(str(sparsity)) * total)
        most = Fraction(str(sparsity)) + Fraction(1, 10)
        assert all(z.denominator == 1 for z in zeros.values())
        assert all(0 <= share <= most for share in shares.values())
        parts = divided(total // 3, list(sizes.values()))
        assert sum(parts) == total // 3 and min(parts) >= 0


def test_scores_are_changes_of_the_loss_along_normal_draws():
    """The loss is quadratic in one matrix and linear in the other: ``p`` is the product of the
    gradient with the draw."""
    leaves = [jnp.asarray(b["w"]) for b in PARAMS["blocks"]]
    graph = dst.oneshot.stages.plan(forward, PARAMS, X[0], ["blocks/0/w", "blocks/1/w"])
    pieces = [piece for stage in graph.stages for piece in stage.pieces]
    method = dst.ECoFLaP(draws=2, epsilon=0.05)
    for piece, weight, slope in zip(
        pieces, leaves, (2 * leaves[0], 3 * jnp.ones((8, 3))), strict=True
    ):
        z = [method.noise(piece.name, n, weight[None]) for n in range(4)]
        expected = sum(abs(float((slope[None] * x).sum())) for x in z)
        found = method.score(Objective(loss, PARAMS), leaves, piece, X)
        assert found == pytest.approx(expected, rel=1e-3)
    np.testing.assert_array_equal(leaves[0], PARAMS["blocks"][0]["w"])


def test_a_network_gets_exactly_the_global_sparsity():
    given = {"forward": forward, "loss": loss, "batches": X}
    _, masks = dst.prune(PARAMS, 0.6, allocation=dst.ECoFLaP(), **given)
    zeros = {p: int((~m).sum()) for p, m in masks.items()}
    assert sum(zeros.values()) == math.floor(Fraction(6, 10) * 88)
    assert zeros["blocks/0/w"] != 38  # not uniform


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="must keep .* Raise the margin"):
        dst.ECoFLaP(margin=0.01).sparsities({"a": 1, "b": 1, "c": 1}, dict.fromkeys("abc", 3), 0.9)
    for settings in ({"draws": 0}, {"epsilon": 0.0}, {"margin": 0.0}, {"seed": -1}):
        with pytest.raises(ValueError, match="of ECoFLaP must be"):
            dst.ECoFLaP(**settings)
    with pytest.raises(ValueError, match="expected finite values near the weights of blocks/0/w"):
        given = {"forward": forward, "batches": X, "loss": lambda p, x: jnp.log(x.sum() * 0 - 1.0)}
        dst.prune(PARAMS, 0.5, allocation=dst.ECoFLaP(), **given)
    with pytest.raises(ValueError, match="ECoFLaP gives every block a sparsity"):
        given = {"forward": forward, "batches": X, "loss": loss, "structure": dst.NM(2, 4)}
        dst.prune(PARAMS, 0.5, allocation=dst.ECoFLaP(), **given)
