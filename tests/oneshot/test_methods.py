"""One-shot methods against tables worked out by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from tests.oneshot.test_sparsegpt import LARGE, ROWS, W, X, matrix


def lost(result):
    return (~np.asarray(result[1][0]).T).astype(int).tolist()


def test_magnitude_loses_the_smallest_of_a_layer_or_of_an_output():
    for scope in ("layer", "row"):
        assert lost(dst.Magnitude(scope)(matrix(W, X))) == [[0, 1, 0, 1], [1, 0, 1, 0]]
    assert lost(dst.Magnitude()(matrix(W, X, 0.5, dst.NM(2, 4)))) == [[0, 1, 0, 1], [1, 0, 1, 0]]
    with pytest.raises(ValueError, match="scope of Magnitude"):
        dst.Magnitude("matrix")


@pytest.mark.parametrize("structure", [None, dst.NM(2, 4)])
def test_wanda_weighs_magnitudes_by_norms(structure):
    given = matrix(W, X, structure=structure)
    expected = [
        [2.381176, 0.316228, 1.326650, 1.438749],
        [0.529150, 2.529822, 0.829156, 3.357082],
    ]
    np.testing.assert_allclose(dst.Wanda().scores(given)[0].T, expected, atol=1e-6)
    result = dst.Wanda()(given)
    assert lost(result) == [[0, 1, 1, 0], [1, 0, 1, 0]]
    np.testing.assert_array_equal(
        result[0][0].T, np.array([[0.9, 0, 0, 0.3], [0, 0.8, 0, -0.7]], np.float32)
    )


def test_wanda_ignores_the_scale_between_an_input_and_its_weights():
    scale = np.exp(np.random.default_rng(1).normal(size=48))
    one = dst.Wanda()(matrix(LARGE, ROWS, 0.6))[1]
    other = dst.Wanda()(matrix(LARGE / scale, ROWS * scale, 0.6))[1]
    np.testing.assert_array_equal(one, other)
    assert (np.asarray(one[0]).sum(0) == 48 - 28).all()


def test_experts_lose_their_own_weights():
    first, second = matrix(W, X), matrix(W[::-1], X[:, ::-1])
    both = dst.oneshot.Matrix(
        "w",
        jnp.concatenate([first.weight, second.weight]),
        dst.oneshot.Statistics(
            *(jnp.concatenate(p) for p in zip(first.inputs, second.inputs, strict=True))
        ),
        first.sparsity,
    )
    for method in (dst.Magnitude(), dst.Wanda(), dst.SparseGPT(block=2), dst.ALPS()):
        weight, mask = method(both)
        for i, one in enumerate((first, second)):
            alone, own = method(one)
            np.testing.assert_array_equal(mask[i], own[0])
            np.testing.assert_allclose(weight[i], alone[0], rtol=1e-6)


A = {
    "w": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, -0.6, -0.7, 0.8, -0.9, 1, 0.65],
    "sums": [4, 3, 5, 2, 4, 3, 0.2, 0.1, 0.5, 0.3, -0.2, -0.4],
    "variance": [1, 1, 2, 1, 4, 1, 1, 1, 1, 1, 1, 1],
    "squares": [4.0] * 12,
}
B = {
    "w": [0.5, -0.3, 0.2, 0.6, -0.4, 0.1, 0.9, -0.7],
    "sums": [2, 1, 3, -1, 2, 4, 1, 0.5],
    "variance": [1, 0.5, 2, 1, 1, 0.25, 1, 1],
    "squares": [6, 2, 5, 3, 4, 5, 2, 1],
}
EXCHANGES = {
    "overshoots": (A, [0, 1, 2, 3, 4, 5], {}, [6, 7, 8, 9, 10, 11]),
    "only falls": (A, [0, 1, 2, 3, 4, 5], {"accept": "reduce"}, [0, 4, 6, 7, 9, 11]),
    "one exchange": (B, [1, 2, 5, 7], {"cycles": 1}, [1, 2, 4, 7]),
    "there and back": (B, [1, 2, 5, 7], {"cycles": 3}, [0, 3, 4, 7]),
    "keeps its sign": (B, [1, 2, 5, 7], {"accept": "same_sign"}, [1, 2, 5, 7]),
}


@pytest.mark.parametrize("case", EXCHANGES)
def test_dsnot_exchanges_as_worked_out_by_hand(case):
    numbers, before, settings, after = EXCHANGES[case]
    w, sums, variance, squares = (np.array(x, np.float32) for x in numbers.values())
    mask = np.ones((1, len(w), 1), bool)
    mask[0, before] = False
    result = dst.DSnoT(**settings).exchanged(
        jnp.asarray(mask),
        jnp.asarray(w * sums)[None, :, None],
        jnp.asarray(variance)[None],
        jnp.asarray(abs(w) * np.sqrt(squares))[None, :, None],
    )
    assert np.flatnonzero(~np.asarray(result)[0, :, 0]).tolist() == after


@pytest.mark.parametrize("structure", [None, dst.NM(2, 4)])
@pytest.mark.parametrize("accept", ["always", "same_sign", "reduce"])
def test_dsnot_keeps_counts_and_values(structure, accept):
    given = matrix(LARGE, ROWS + 0.5, 0.5, structure)
    weight, mask = dst.DSnoT(accept=accept)(given)
    first = dst.Wanda()(given)[1]
    assert (mask != first).any()
    np.testing.assert_array_equal(mask.sum(1), first.sum(1))
    np.testing.assert_array_equal(weight, jnp.where(mask, given.weight, 0))
    if structure is not None:
        assert (np.asarray(mask[0]).reshape(12, 4, 16).sum(1) == 2).all()
    if accept == "reduce":
        mean = (ROWS + 0.5).mean(0)
        errors = [abs((LARGE * ~np.asarray(m[0]).T) @ mean) for m in (first, mask)]
        assert (errors[1] <= errors[0] + 1e-5).all()


def test_owl_gives_blocks_with_outliers_more_weights():
    owl = dst.OWL()
    outliers = dict(zip("abcd", [2.0, 5.0, 1.0, 4.0], strict=True))
    shares = owl.sparsities(outliers, dict.fromkeys("abcd", 10), 0.7)
    np.testing.assert_allclose([float(x) for x in shares.values()], [0.74, 0.62, 0.78, 0.66])
    scores = [jnp.ones(3), jnp.array([1.0, 1, 1, 1, 13])]
    assert owl.outliers(scores) == 12.5
    assert dst.OWL(outlier=6.0).outliers(scores) == 0
    even = owl.sparsities(dict.fromkeys("ab", 1.0), {"a": 1, "b": 9}, 0.7)
    assert [float(x) for x in even.values()] == [0.7, 0.7]
    sizes = {"a": 10, "b": 90}
    uneven = owl.sparsities({"a": 1.0, "b": 3.0}, sizes, 0.5)
    assert sum(float(uneven[b]) * n for b, n in sizes.items()) == pytest.approx(50)
    names = ("blocks/3/attention/query/kernel", "Dense_0/kernel", "blocks/query/kernel[2]", "head")
    assert [owl.block_of(x) for x in names] == ["blocks/3", "Dense_0", "blocks[2]", "head"]
    with pytest.raises(ValueError, match="would leave nothing"):
        dst.OWL(strength=0.2).sparsities(outliers, dict.fromkeys("abcd", 10), 0.95)
