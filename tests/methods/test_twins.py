"""Methods that move budgets, remember gradients or use structures, against their twins in plain
loops: masks, weights and explored sets are equal bit for bit over 20 topology steps."""

from __future__ import annotations

from fractions import Fraction

import pytest

import dst
from tests.following import EVERY, RATE, SHAPES, STOP, draw, follow, gradients, weights
from tests.reference.acdc import ACDC
from tests.reference.exchange import blocks, columns, n_of_m
from tests.reference.gmp import GMP
from tests.reference.granet import GraNet
from tests.reference.mest import MEST
from tests.reference.rigl import RigL
from tests.reference.set import SET
from tests.reference.snfs import SNFS
from tests.reference.snip import SNIP
from tests.reference.srigl import SRigL

SLOW = pytest.mark.evidence  # compilation is what these cost; `make test` runs one of a kind
WHEN = {"every": EVERY, "stop": STOP}
TWIN = {**WHEN, "rate": RATE}


def counts_of(state):
    return {name: int(mask.sum()) for name, mask in dst.masks(state).items()}


def test_gradients_and_weights_hold_what_breaks_selections():
    """Ties, zeros and layers in which all scores are equal."""
    first, slope = weights(), next(gradients())
    assert len(set(first["equal"].flat)) == len(set(slope["equal"].flat)) == 1
    assert (first["zeros"] == 0).mean() > 0.5 and (slope["zeros"] == 0).mean() > 0.5
    assert len(set(abs(first["ties"]).flat)) == 3


# Growth by remembered gradients


@pytest.mark.parametrize(
    "redistribute", [True, pytest.param(False, marks=SLOW)], ids=["moves", "stays"]
)
def test_snfs_equals_its_twin(redistribute):
    # 0.5 is exact in binary; the default momentum of 0.9 is not.
    settings = {"drop_fraction": 0.5, "beta": 0.5, "redistribute": redistribute}
    state, twin = follow(
        dst.SNFS(sparsity=0.6, **settings, **WHEN),
        lambda layers: SNFS(layers, **settings, **TWIN),
    )
    total = sum(a * b - a * b * 6 // 10 for a, b in SHAPES.values())
    assert sum(counts_of(state).values()) == total
    moved = any(
        n != a * b - a * b * 6 // 10
        for n, (a, b) in zip(counts_of(state).values(), SHAPES.values(), strict=True)
    )
    assert moved == redistribute


@pytest.mark.parametrize("redistribute", [False, pytest.param(True, marks=SLOW)])
def test_snfs_as_under_adam_equals_its_twin(redistribute):
    settings = {"drop_fraction": 0.5, "beta": 0.5, "b2": 0.75, "redistribute": redistribute}
    follow(
        dst.SNFS(sparsity=0.6, **settings, **WHEN),
        lambda layers: SNFS(layers, **settings, **TWIN),
    )


@SLOW
def test_snfs_equals_its_twin_where_layers_are_nearly_dense():
    """The limits bind: layers cannot take more than they have zeros for."""
    settings = {"drop_fraction": 0.5, "beta": 0.5}
    follow(
        dst.SNFS(sparsity=0.15, **settings, **WHEN),
        lambda layers: SNFS(layers, **settings, **TWIN),
    )


@pytest.mark.parametrize("every", [3, pytest.param(2, marks=SLOW)], ids=["part", "all"])
def test_rigl_on_accumulated_gradients_equals_its_twin(every):
    """The last two of every three, and all."""
    settings = {"drop_fraction": 0.5, "accumulate": 2, "every": every, "stop": STOP}
    follow(
        dst.RigL(sparsity=0.6, **settings),
        lambda layers: RigL(layers, rate=RATE, **settings),
        changes=13,
    )


# Counts that follow a schedule


@pytest.mark.parametrize("initial", [pytest.param(0.0, marks=SLOW), 0.5], ids=["dense", "half"])
def test_granet_equals_its_twin(initial):
    settings = {"drop_fraction": 0.5, "prune_stop": 31, **WHEN}
    state, _ = follow(
        dst.GraNet(sparsity=0.8, initial_sparsity=initial, **settings),
        lambda layers: GraNet(layers, Fraction(4, 5), Fraction(initial), **settings, rate=RATE),
    )
    size = sum(a * b for a, b in SHAPES.values())
    assert sum(counts_of(state).values()) == size - size * 4 // 5


@pytest.mark.parametrize(
    ("soft_bound", "gradient_weight"),
    [
        (False, 0.5),
        (True, 0.0),
        pytest.param(False, 0.0, marks=SLOW),
        pytest.param(True, 0.5, marks=SLOW),
    ],
)
def test_mest_equals_its_twin(soft_bound, gradient_weight):
    shared = {
        "stages": (18, 34, STOP - 1),
        "soft_bound": soft_bound,
        "gradient_weight": gradient_weight,
        "every": EVERY,
    }
    extra = (0.2, 0.15, 0.1, 0.0)
    state, _ = follow(
        dst.MEST(sparsity=0.6, extra=extra, **shared),
        lambda layers: MEST(
            layers,
            Fraction(3, 5),
            extra=tuple(Fraction(str(x)) for x in extra),
            rate=RATE,
            draw=draw,
            **shared,
        ),
    )
    assert list(counts_of(state).values()) == [a * b - a * b * 6 // 10 for a, b in SHAPES.values()]


def test_acdc_equals_its_twin():
    phases = {t: t % 4 == 2 for t in range(2, 43, 2)}
    state, _ = follow(
        dst.ACDC(sparsity=0.7, every=2, start=2, stop=42),
        lambda layers: ACDC(layers, Fraction(7, 10), phases, RATE),
        steps=44,
    )
    size = sum(a * b for a, b in SHAPES.values())
    assert sum(counts_of(state).values()) == size - size * 7 // 10


@pytest.mark.parametrize("allocation", ["global", "lamp"])
def test_gmp_across_layers_equals_its_twin(allocation):
    state, _ = follow(
        dst.GMP(sparsity=0.9, allocation=allocation, start=1, stop=41, every=2),
        lambda layers: GMP(
            layers, Fraction(9, 10), every=2, start=1, stop=41, rate=RATE, allocation=allocation
        ),
    )
    size = sum(a * b for a, b in SHAPES.values())
    assert sum(counts_of(state).values()) == size - size * 9 // 10
    assert min(counts_of(state).values()) >= 1


@pytest.mark.parametrize("allocation", ["global", pytest.param("uniform", marks=SLOW)])
def test_snip_equals_its_twin(allocation):
    follow(
        dst.SNIP(sparsity=0.7, allocation=allocation),
        lambda layers: SNIP(layers, Fraction(7, 10), RATE, per_layer=allocation == "uniform"),
        changes=1,
        steps=5,
    )


# Presets and structures


def test_smet_equals_its_twin():
    """Its ramp over 100 steps is one over 4 here: the factors are exact then."""
    follow(
        dst.smet(0.6, cold_start=4, **WHEN),
        lambda layers: SET(
            layers,
            drop_fraction=0.2,
            draw=draw,
            floor=0.005,
            regrow="forbid",
            regrow_value="zero",
            warm_up=4,
            rounding="ceil",
            **TWIN,
        ),
    )


STRUCTURES = {
    "block": (dst.Block(4, 2), lambda shape: blocks(shape, 4, 2)),
    "fan_in": (dst.ConstantFanIn(), columns),
    "n_of_m": (dst.NM(2, 4), lambda shape: n_of_m(shape, 4)),
}


@pytest.mark.parametrize(
    "name", ["block", pytest.param("fan_in", marks=SLOW), pytest.param("n_of_m", marks=SLOW)]
)
def test_rigl_with_a_structure_equals_its_twin(name):
    structure, groups_of = STRUCTURES[name]
    settings = {"drop_fraction": 0.7, "update_weights": True, "rounding": "ceil"}
    groups = {name: groups_of(shape) for name, shape in SHAPES.items()}
    follow(
        dst.RigL(sparsity=0.5, allocation="uniform", structure=structure, **settings, **WHEN),
        lambda layers: RigL(layers, **settings, groups=groups, **TWIN),
    )


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) for name in STRUCTURES])
def test_set_with_a_structure_equals_its_twin(name):
    structure, groups_of = STRUCTURES[name]
    groups = {name: groups_of(shape) for name, shape in SHAPES.items()}
    follow(
        dst.SET(sparsity=0.5, allocation="uniform", drop_fraction=0.5, structure=structure, **WHEN),
        lambda layers: SET(layers, drop_fraction=0.5, draw=draw, groups=groups, **TWIN),
    )


@pytest.mark.parametrize("gamma_of", ["sparse", pytest.param("dense", marks=SLOW)])
def test_srigl_equals_its_twin(gamma_of):
    settings = {"drop_fraction": 0.5, "gamma": 0.75 if gamma_of == "sparse" else 0.4}
    _, twin = follow(
        dst.SRigL(sparsity=0.6, gamma_of=gamma_of, **settings, **WHEN),
        lambda layers: SRigL(layers, SHAPES, dense=gamma_of == "dense", **settings, **TWIN),
    )
    assert twin.ablated > 20
