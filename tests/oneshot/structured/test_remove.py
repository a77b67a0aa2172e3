"""Laws of removal: exact counts, all leaves or none, and messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dst
import dst.nnx
from dst.models import LeNet5
from dst.oneshot.structured import FLAP, Group, Groups, Magnitude, Member, Removal, Taylor, Wanda
from dst.oneshot.structured.remove import best
from tests.oneshot.structured.programs import CHAIN, PROGRAMS, VECTORS, chain, results

GROUPS = dst.channel_groups(chain, CHAIN, VECTORS)


def cost(forward, params, batch):
    return dst.flops.trace(forward, params, batch).forward()


def test_so_many_units_go_from_every_leaf_and_from_no_other():
    smaller, removal = dst.remove(CHAIN, 0.25, groups=GROUPS)
    assert jax.tree.map(lambda x: x.shape, smaller) == {
        "layer0": {"kernel": (5, 8), "bias": (8,)},
        "layer1": {"kernel": (8, 6), "bias": (6,)},
        "out": {"kernel": (6, 3), "bias": (3,)},
    }
    masked = removal.masked(CHAIN)
    first, second = (~removal.kept[x.name] for x in GROUPS)
    assert (first.sum(), second.sum()) == (2, 1)
    for path, zero in (
        (("layer0", "kernel"), first[None]),
        (("layer0", "bias"), first),
        (("layer1", "kernel"), first[:, None] | second[None]),
        (("layer1", "bias"), second),
        (("out", "kernel"), second[:, None]),
    ):
        leaf, before = np.asarray(masked[path[0]][path[1]]), CHAIN[path[0]][path[1]]
        np.testing.assert_array_equal(leaf, np.where(zero, 0, before))
    np.testing.assert_array_equal(masked["out"]["bias"], CHAIN["out"]["bias"])


def test_the_cost_falls_as_the_widths_do():
    smaller, _ = dst.remove(CHAIN, 0.25, groups=GROUPS)
    rows = len(VECTORS)
    assert cost(chain, CHAIN, VECTORS) == rows * (5 * 10 + 10 * 7 + 7 * 3)
    assert cost(chain, smaller, VECTORS) == rows * (5 * 8 + 8 * 6 + 6 * 3)


def test_fractions_go_by_patterns_and_groups_that_none_matches_stay_whole():
    smaller, removal = dst.remove(CHAIN, {"layer0/**": 0.5}, groups=GROUPS)
    assert smaller["layer0"]["kernel"].shape == (5, 5)
    assert smaller["layer1"]["kernel"].shape == (5, 7)
    assert str(removal) == "group          units  kept\nlayer0/kernel     10     5"


def test_no_unit_goes_at_a_fraction_of_zero():
    smaller, _ = dst.remove(CHAIN, 0, groups=GROUPS)
    for one, other in zip(jax.tree.leaves(smaller), jax.tree.leaves(CHAIN), strict=True):
        np.testing.assert_array_equal(one, other)


def test_units_of_lowest_score_go_and_of_equal_ones_the_last():
    group = Group("g", (Member("w", None, 0, np.arange(6)[:, None]),), runs=2)
    scores = np.array([3.0, 1.0, 1.0, 0.0, 5.0, 4.0])
    np.testing.assert_array_equal(best(group, scores, 1 / 3), [1, 1, 0, 0, 1, 1])
    whole = Group("g", group.members)
    np.testing.assert_array_equal(best(whole, scores, 1 / 3), [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(best(whole, scores, 0.5), [1, 0, 0, 0, 1, 1])


def test_dtypes_stay():
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), CHAIN)
    smaller, removal = dst.remove(half, 0.5, groups=GROUPS)
    found = jax.tree.leaves((smaller, removal.masked(half)))
    assert {x.dtype for x in found} == {jnp.dtype(jnp.bfloat16)}


def test_a_flax_model_gets_smaller_with_the_sizes_that_its_modules_name():
    model = LeNet5((16, 16, 1), 3, channels=(4, 6), hidden=8, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)
    smaller, removal = dst.nnx.remove(model, 0.5, batches=[images])
    sizes = [(x.in_features, x.out_features) for x in (*smaller.conv, smaller.hidden, smaller.out)]
    assert sizes == [(1, 2), (2, 3), (3, 4), (4, 3)]
    graph, params = nnx.split(model)
    masked = nnx.merge(graph, removal.masked(params))
    one, other = (run(x, images) for x in (smaller, masked))
    np.testing.assert_allclose(one, other, atol=1e-5)
    before, after = (dst.nnx.costs(x, images[:1]).forward() for x in (model, smaller))
    assert (before, after) == (
        12 * 12 * 25 * 4 + 2 * 2 * 25 * 4 * 6 + 6 * 8 + 8 * 3,
        12 * 12 * 25 * 2 + 2 * 2 * 25 * 2 * 3 + 3 * 4 + 4 * 3,
    )


def run(model, x):
    graph, state = nnx.split(model)
    return results(lambda state, x: nnx.merge(graph, state)(x), (state, x))[0]


class Normed(nnx.Module):
    """Convolutions with a norm of groups of channels, whose units are these groups."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(2, 8, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
        self.last = nnx.Conv(8, 3, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


class Summed(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Einsum("bi,io->bo", (4, 8), (8,), rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)))


@pytest.mark.parametrize(("kind", "shape"), [(Normed, (2, 5, 5, 2)), (Summed, (3, 4))])
def test_modules_that_keep_sizes_beside_their_arrays_compute_what_the_masked_model_does(
    kind, shape
):
    model, x = kind(), jax.random.normal(jax.random.key(1), shape)
    smaller, removal = dst.nnx.remove(model, 0.25, batches=[x])
    assert smaller.first.kernel.shape[-1] == 6
    graph, params = nnx.split(model)
    expected = nnx.merge(graph, removal.masked(params))(x)
    np.testing.assert_allclose(smaller(x), expected, atol=1e-5)


def test_a_leaf_that_no_product_reads_is_named_with_what_to_do():
    params = {"table": jnp.ones((5, 4)), "a": jnp.ones((4, 4))}
    tokens = jnp.arange(3)

    def forward(p, x):
        return jnp.tanh(p["table"][x] @ p["a"]) @ p["table"].T

    with pytest.raises(ValueError, match="gather.*name the other groups by fraction="):
        dst.remove(params, 0.5, score=Wanda(), forward=forward, batches=[tokens])


def test_masks_that_a_model_carries_are_not_in_the_smaller_one():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), jnp.tanh, nnx.Linear(6, 2, rngs=rngs))
    masks = dst.nnx.prune(model, 0.5)
    smaller, _ = dst.nnx.remove(model, 0.5, batches=[np.ones((1, 4), np.float32)])
    assert dst.nnx.masks(model).keys() == masks.keys()
    assert not jax.tree.leaves(nnx.state(smaller, dst.nnx.Mask))


STACK = PROGRAMS["a scan of blocks"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fraction": 1.0}, r"fraction must be a number in \[0, 1\), got 1.0"),
        ({"fraction": -0.1}, "fraction must be a number"),
        ({"fraction": {"layer0/*": 2}}, "fraction of layer0/"),
        ({"fraction": {"layers/*": 0.5}}, "matches no"),
        ({"score": "taylor"}, "score must be one such as"),
        ({"score": FLAP()}, "FLAP looks at calibration data"),
        ({"score": Wanda(), "forward": chain}, "Wanda looks at calibration data"),
        ({"score": Taylor()}, "Taylor looks at gradients: give loss="),
        ({"groups": None}, "expected groups= of dst.channel_groups, or forward="),
        ({"groups": Groups({})}, "expected at least one group"),
        ({"groups": dst.channel_groups(*STACK[:3])}, "Find the groups of these parameters"),
    ],
)
def test_what_cannot_be_done_says_so(arguments, words):
    with pytest.raises(ValueError, match=words):
        dst.remove(CHAIN, **{"fraction": 0.5, "groups": GROUPS, **arguments})


def test_a_layer_cannot_lose_all_units_nor_a_run_more_than_another():
    kept = {x.name: np.ones(x.units, bool) for x in GROUPS}
    with pytest.raises(ValueError, match="at least one unit that is kept, got none"):
        Removal(GROUPS, {**kept, "layer0/kernel": np.zeros(10, bool)})
    with pytest.raises(ValueError, match=r"expected bool of shape \(10,\)"):
        Removal(GROUPS, {**kept, "layer0/kernel": np.ones(9, bool)})
    group = Group("g", (Member("w", None, 0, np.arange(6)[:, None]),), runs=2)
    with pytest.raises(ValueError, match=r"equally many of each of its 2 runs.*\[3, 2\]"):
        Removal(Groups({"g": group}), {"g": np.arange(6) < 5})


def test_layers_in_one_array_lose_equally_many_units():
    forward, params, batch, _ = STACK
    groups = dst.channel_groups(forward, params, batch)
    with pytest.raises(ValueError, match="must keep equally many units"):
        dst.remove(params, {"gate[0]": 0.5, "gate[1]": 0.25}, groups=groups)


@pytest.mark.parametrize("score", [Magnitude, FLAP])
def test_a_power_is_above_zero(score):
    with pytest.raises(ValueError, match="power must be a finite number > 0"):
        score(power=0)


def test_a_taylor_sum_is_per_weight_or_per_vector():
    with pytest.raises(ValueError, match="per must be one of"):
        Taylor(per="matrix")
