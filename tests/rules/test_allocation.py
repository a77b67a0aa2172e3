"""Laws and published numbers of allocations."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.core import tree
from dst.engine.hard_plan import plan_of
from dst.rules.allocation import Allocation, ErdosRenyi, Layer, Uniform, allocator, zeros
from dst.rules.rule import HowMany, Rule
from tests.reference import resnet50

pytestmark = pytest.mark.usefixtures("strict_dtypes")

ERK, ER = ErdosRenyi(), ErdosRenyi(kernel=False)

H1 = {"a": (1, 1, 8, 8), "b": (3, 3, 8, 8), "c": (64, 10)}
G14 = {"conv1": (3, 3, 3, 16), "conv2": (3, 3, 16, 32), "fc": (512, 10)}
LENET = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}
RESNET = {name: kernel.shape for name, kernel in resnet50.kernels().items()}


def layers(shapes, **sparsity):
    return {k: Layer(tuple(s), sparsity=sparsity.get(k)) for k, s in shapes.items()}


def counts(shapes, allocation):
    return {
        k: math.prod(s) - zeros(math.prod(s), allocation.sparsity[k]) for k, s in shapes.items()
    }


def floats(allocation):
    return [float(s) for s in allocation.sparsity.values()]


def expected_total(shapes, allocation):
    """Weights before every layer rounds its share."""
    return sum((1 - allocation.sparsity[k]) * math.prod(s) for k, s in shapes.items())


# Counts


@pytest.mark.parametrize(
    ("size", "sparsity", "inactive"),
    [(90, 0.7, 63), (10, 0.5, 5), (100, 0.29, 29), (1000, 0.9, 900), (3, 0.5, 1), (7, 0.0, 0)],
)
def test_decimal_products_are_exact(size, sparsity, inactive):
    """int(90 * 0.7) is 62 in binary floating point."""
    assert zeros(size, sparsity) == inactive


# ERK and ER


@pytest.mark.parametrize(
    ("shapes", "sparsity", "epsilon", "saturated", "expected"),
    [
        (H1, 0.5, 6.0, ("a",), [0, 0.770833, 0.30625]),
        (H1, 0.3, 8.772727, ("a", "c"), [0, 0.664931, 0]),
        (G14, 0.9, 1.692180, (), [0.902073, 0.980170, 0.827477]),
        (G14, 0.8, 3.382696, (), [0.804242, 0.960359, 0.655124]),
        (G14, 0.5, 8.452579, (), [0.510846, 0.900946, 0.138233]),
        (LENET, 0.9, 17.264151, ("fc3",), [0.920432, 0.769811, 0]),
    ],
)
def test_erk_equals_the_worked_examples(shapes, sparsity, epsilon, saturated, expected):
    allocation = ERK(layers(shapes), sparsity)
    assert float(allocation.epsilon) == pytest.approx(epsilon, abs=1e-6)
    assert allocation.saturated == saturated
    assert floats(allocation) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("sparsity", "total"), [(0.5, 640), (0.3, 897)])
def test_erk_spends_the_budget_after_saturation(sparsity, total):
    assert expected_total(H1, ERK(layers(H1), sparsity)) == total


@pytest.mark.parametrize(
    ("sparsity", "active"), [(0.9, [43, 92, 884]), (0.8, [85, 183, 1766]), (0.5, [212, 457, 4413])]
)
def test_counts_are_size_minus_rounded_down_zeros(sparsity, active):
    assert list(counts(G14, ERK(layers(G14), sparsity)).values()) == active


def test_er_looks_at_channels_only():
    allocation = ER(layers(G14), 0.9)
    assert float(allocation.epsilon) == pytest.approx(0.904, abs=5e-4)
    assert floats(allocation) == pytest.approx([0.642167, 0.91525, 0.907834], abs=1e-6)


ABC = {"a": (2, 4), "b": (3, 6), "c": (2, 4, 6)}


@pytest.mark.parametrize(
    ("shapes", "sparsity", "allocate", "expected", "rounded"),
    [
        (ABC, 0.5, ERK, [0, 0.309524, 0.654762], [8, 12, 17]),
        (ABC, 0.5, ER, [0.207143, 0.471429, 0.559524], [6, 10, 21]),
        (ABC, 0.8, ERK, [0.555556, 0.703704, 0.851852], [4, 5, 7]),
        (ABC, 0.5, ErdosRenyi(power=2.0), [0, 0.033333, 0.758333], [8, 17, 12]),
        (
            {"a": (2, 4), "c": (3, 6, 7), "d": (7, 4)},
            0.5,
            ERK,
            [0, 0.642857, 0],
            [8, 45, 28],
        ),
        ({"a": (2, 4), "c": (3, 6, 7)}, 0.5, ERK, [0, 0.531746], [8, 59]),
    ],
)
def test_the_formula_equals_that_of_the_peers(shapes, sparsity, allocate, expected, rounded):
    """jaxpruner/sparsity_distributions_test.py; JaxPruner rounds to the nearest count."""
    allocation = allocate(layers(shapes), sparsity)
    assert floats(allocation) == pytest.approx(expected, abs=1e-6)
    sizes = [math.prod(s) for s in shapes.values()]
    nearest = [round(n * (1 - s)) for n, s in zip(sizes, floats(allocation), strict=True)]
    assert nearest == rounded


def test_overridden_layers_are_outside_the_budget():
    allocation = ERK(layers({**ABC, "d": (50, 50)}, d=0.7), 0.5)
    assert allocation.sparsity["d"] == Fraction(7, 10)
    assert floats(allocation)[:3] == floats(ERK(layers(ABC), 0.5))


@pytest.mark.parametrize(
    ("sparsity", "expected", "active"),
    [
        (0.8, [0.83776, 0.53064, 0], [38160, 14081, 1000]),
        (0.9, [0.92043, 0.76981, 0], [18715, 6906, 1000]),
        (0.95, [0.96152, 0.88867, 0.08149], None),
        (0.98, [0.98461, 0.95547, 0.63260], None),
        (0.99, [0.99230, 0.97773, 0.81630], None),
    ],
)
def test_erk_on_lenet_300_100(sparsity, expected, active):
    allocation = ERK(layers(LENET), sparsity)
    assert floats(allocation) == pytest.approx(expected, abs=1e-5)
    if active:
        assert list(counts(LENET, allocation).values()) == active


def test_lenet_at_90_percent_misses_the_budget_by_rounding_only():
    """Every layer rounds up by less than one weight."""
    total = sum(counts(LENET, ERK(layers(LENET), 0.9)).values())
    assert total == 26621
    assert 0 <= total - (266200 - zeros(266200, 0.9)) <= len(LENET)


# ResNet-50: README.md of google-research/rigl, to the digits that its counter gives

_STAGE_2 = [f"s2b0/{k}" for k in ("1", "3", "proj")]
_STAGE_2 += [f"s2b{b}/{k}" for b in (1, 2) for k in ("1", "3")]


@pytest.mark.parametrize(
    ("sparsity", "epsilon", "saturated", "total", "flops"),
    [
        (0.8, 99.5617, {*_STAGE_2, "s3b0/1"}, 5_100_630, 0.4153),
        (0.9, 48.7866, {"s2b0/1"}, 2_550_353, 0.2431),
        (0.95, 24.3721, set(), 1_275_200, 0.1230),
    ],
)
def test_erk_on_resnet_50(sparsity, epsilon, saturated, total, flops):
    allocation = ERK(layers(RESNET), sparsity)
    assert float(allocation.epsilon) == pytest.approx(epsilon, abs=5e-5)
    assert set(allocation.saturated) == saturated
    assert sum(counts(RESNET, allocation).values()) == total
    share = {name: float(s) for name, s in allocation.sparsity.items()}
    ratio = resnet50.forward_flops(share) / resnet50.forward_flops({})
    assert ratio == pytest.approx(flops, abs=5e-5)


def test_the_dense_resnet_50_has_its_published_size_and_cost():
    assert sum(math.prod(s) for s in RESNET.values()) == 25_502_912
    assert sum(s[-1] for s in RESNET.values()) == 27_560
    assert resnet50.forward_flops({}) == pytest.approx(8.202341e9, rel=1e-6)


_RESNET_ERK = {
    "conv1": (0.1428, 0.5800, 0.7902, 0.9580),
    "s2b0/1": (0, 0, 0.2265, 0.8453),
    "s2b0/2": (0.6381, 0.8227, 0.9114, 0.9823),
    "s2b1/1": (0, 0.0412, 0.5210, 0.9042),
    "s2b2/3": (0, 0.0412, 0.5210, 0.9042),
    "s2b0/proj": (0, 0.0412, 0.5210, 0.9042),
    "s3b0/1": (0, 0.4253, 0.7129, 0.9426),
    "s3b3/2": (0.8231, 0.9133, 0.9567, 0.9913),
    "s3b1/1": (0.0247, 0.5221, 0.7612, 0.9522),
    "s3b0/proj": (0.4151, 0.7134, 0.8568, 0.9714),
    "s4b0/1": (0.4151, 0.7134, 0.8568, 0.9714),
    "s4b5/2": (0.9126, 0.9572, 0.9786, 0.9957),
    "s4b2/3": (0.5131, 0.7614, 0.8808, 0.9762),
    "s4b0/proj": (0.7079, 0.8569, 0.9285, 0.9857),
    "s5b0/1": (0.7079, 0.8569, 0.9285, 0.9857),
    "s5b1/2": (0.9565, 0.9787, 0.9894, 0.9979),
    "s5b2/1": (0.7567, 0.8808, 0.9405, 0.9881),
    "s5b0/proj": (0.8541, 0.9285, 0.9643, 0.9929),
    "fc": (0.8518, 0.9274, 0.9637, 0.9927),
}


@pytest.mark.parametrize("column", range(4))
def test_erk_on_resnet_50_layer_by_layer(column):
    sparsity = (0.8, 0.9, 0.95, 0.99)[column]
    allocation = ERK(layers(RESNET), sparsity)
    for name, row in _RESNET_ERK.items():
        assert float(allocation.sparsity[name]) == pytest.approx(row[column], abs=5.1e-5), name


def test_the_start_table_of_resnet_50_holds_the_allocated_integers():
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in RESNET.items()}
    plan = plan_of(tree.survey(params), Rule(sparsity=0.9))
    assert sum(int(p.initial) for p in plan.sparse.values()) == 2_550_353
    assert "2550353 of 25502912 weights" in str(plan)


@pytest.mark.parametrize(
    ("allocate", "sparsity", "flops"),
    [
        (Uniform(dense="conv1"), 0.8, 0.2254),
        (Uniform(dense="conv1"), 0.9, 0.1285),
        (Uniform(dense="conv1"), 0.95, 0.0801),
        (Uniform(), 0.8, 0.2011),
        (Uniform(), 0.9, 0.1012),
        (ER, 0.8, 0.4546),
        (ER, 0.9, 0.2593),
        (ER, 0.95, 0.1451),
    ],
)
def test_other_allocations_cost_what_is_published_for_resnet_50(allocate, sparsity, flops):
    per_layer = allocate(layers(RESNET), sparsity).sparsity
    ratio = resnet50.forward_flops({k: float(s) for k, s in per_layer.items()})
    assert ratio / resnet50.forward_flops({}) == pytest.approx(flops, abs=6e-5)


def test_erk_with_a_dense_first_layer_costs_what_is_published():
    shapes = {k: s for k, s in RESNET.items() if k != "conv1"}
    per_layer = {k: float(s) for k, s in ERK(layers(shapes), 0.99).sparsity.items()}
    ratio = resnet50.forward_flops(per_layer) / resnet50.forward_flops({})
    assert ratio == pytest.approx(0.0548, abs=5e-5)


# Uniform


def test_uniform_without_compensation_misses_the_global_sparsity():
    """RigL's uniform runs leave the first convolution dense on top of the budget."""
    allocation = Uniform(dense="conv1")(layers(RESNET), 0.8)
    assert allocation.sparsity["conv1"] == 0
    active = sum(counts(RESNET, allocation).values())
    assert 1 - active / 25_502_912 == pytest.approx(0.79970, abs=5e-6)


def test_uniform_with_compensation_meets_the_global_sparsity():
    allocation = Uniform(dense="conv1", compensate=True)(layers(RESNET), 0.8)
    assert expected_total(RESNET, allocation) == Fraction(25_502_912) / 5
    assert len(set(allocation.sparsity.values())) == 2


def test_uniform_refuses_a_budget_that_the_dense_layer_alone_exceeds():
    with pytest.raises(ValueError, match="would leave the other layers empty"):
        Uniform(dense="fc1", compensate=True)(layers(LENET), 0.5)


def test_uniform_names_a_dense_pattern_that_matches_nothing():
    with pytest.raises(ValueError, match=r"'fc0' matches no sparse layer.*Did you mean 'fc"):
        Uniform(dense="fc0")(layers(LENET), 0.5)


def test_power_zero_is_uniform():
    assert set(floats(ErdosRenyi(power=0.0)(layers(G14), 0.75))) == {0.75}


def test_an_unknown_allocation_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'uniform'"):
        allocator("unifrom")


# Invariants

SHAPES = st.lists(
    st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6
)
SPARSITIES = st.integers(0, 99).map(lambda n: n / 100)


@given(shapes=SHAPES, sparsity=SPARSITIES, kernel=st.booleans())
def test_erk_is_a_sparsity_and_spends_exactly_the_budget(shapes, sparsity, kernel):
    named = {str(i): s for i, s in enumerate(shapes)}
    allocation = ErdosRenyi(kernel=kernel)(layers(named), sparsity)
    assert all(0 <= s < 1 for s in allocation.sparsity.values())
    budget = sum(math.prod(s) - zeros(math.prod(s), sparsity) for s in shapes)
    assert expected_total(named, allocation) == budget
    total = sum(counts(named, allocation).values())
    assert 0 <= total - budget <= len(shapes)


@given(shapes=SHAPES, sparsity=SPARSITIES)
def test_layers_with_more_weights_per_neuron_are_sparser(shapes, sparsity):
    named = {str(i): s for i, s in enumerate(shapes)}
    allocation = ERK(layers(named), sparsity).sparsity
    share = {k: Fraction(sum(s), math.prod(s)) for k, s in named.items()}
    ordered = sorted(named, key=lambda k: share[k])
    for first, second in zip(ordered, ordered[1:], strict=False):
        assert allocation[first] >= allocation[second]
        if share[first] == share[second]:  # ties saturate together
            assert allocation[first] == allocation[second]


@given(shapes=SHAPES, low=SPARSITIES, high=SPARSITIES)
def test_a_higher_sparsity_is_higher_in_every_layer(shapes, low, high):
    named = layers({str(i): s for i, s in enumerate(shapes)})
    low, high = sorted((low, high))
    first, second = ERK(named, low).sparsity, ERK(named, high).sparsity
    assert all(first[k] <= second[k] for k in named)


@pytest.mark.parametrize("allocation", ["erk", "er", "uniform"])
def test_stacked_slices_are_layers_of_their_own(allocation):
    """A scan-stacked kernel is no three-dimensional tensor."""
    other = {"conv": (3, 3, 4, 8), "head": (64, 10)}
    apart = {"a": (64, 64), "b": (64, 64), "c": (64, 64), **other}
    stacked = {"abc": (3, 64, 64), **other}

    def planned(shapes, **options):
        params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
        leaves = tree.survey(params, **options)
        return plan_of(leaves, Rule(sparsity=0.83, how_many=HowMany(allocation=allocation)))

    one, three = planned(stacked, stacked={"abc": 1}), planned(apart)
    assert one.allocation.epsilon == three.allocation.epsilon
    assert one.sparse["abc"].initial.tolist() == [int(three.sparse[k].initial) for k in "abc"]
    for path in other:
        assert one.sparse[path].initial == three.sparse[path].initial


def test_an_allocator_of_ones_own_is_a_function():
    def halves(named, sparsity):
        return Allocation({k: Fraction(1, 2) for k in named})

    params = {"w": jax.ShapeDtypeStruct((4, 6), jnp.float32)}
    assert (
        plan_of(tree.survey(params), Rule(0.9, how_many=HowMany(allocation=halves)))
        .sparse["w"]
        .initial
        == 12
    )
