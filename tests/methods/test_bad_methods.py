"""Methods that cannot work with a structure, a budget or a schedule say so, with the reason."""

from __future__ import annotations

import jax
import pytest

import dst
from tests.engine.test_bad_calls import MASK, PARAMS, assert_says, begin, resolved


def forced(method):
    """A topology step, traced and not compiled."""
    tx, state = begin(method)
    return jax.eval_shape(lambda: tx.update(PARAMS, state, PARAMS, topology=True))


# name: (the call, parts of its message in this order)
CALLS = {
    # structures
    "a method that cannot use a structure": (
        lambda: dst.SNFS(0.5, every=10, structure=dst.NM(2, 4)),
        ["SNFS", "moves single connections", "NM(n=2, m=4)", "Leave `structure` out"],
    ),
    "a sparsity that the pattern does not have": (
        lambda: dst.RigL(0.9, structure=dst.NM(2, 4)),
        ["sparsity", "0.5", "NM(n=2, m=4)", "0.9", "Change one"],
    ),
    "an override of the sparsity of a pattern": (
        lambda: begin(
            dst.Static(0.5, structure=dst.NM(2, 4)),
            overrides={"hidden/kernel": {"sparsity": 0.75}},
        ),
        ["overrides of hidden/kernel", "0.5", "NM(n=2, m=4)", "0.75"],
    ),
    "a pattern that does not divide the axis": (
        lambda: begin(dst.Static(0.8, structure=dst.NM(1, 5))),
        ["heads/kernel", "(16, 3, 4)", "multiples of 5", "axis 0 of length 16", "overrides="],
    ),
    "blocks that do not divide the axis": (
        lambda: resolved(dst.Static(0.5, structure=dst.Block(2, 3))),
        ["w of shape (4, 4)", "Block(h=2, w=3)", "outputs", "3", "axis 1 of length 4"],
    ),
    "a pattern that keeps all": (lambda: dst.NM(4, 4), ["m of NM(n, m)", ">= 5", "4"]),
    "masks that cut through blocks": (
        lambda: begin(dst.Static(0.5, structure=dst.Block(2, 2)), initial={"hidden/kernel": MASK}),
        ["masks", "hidden/kernel", "not constant within the units"],
    ),
    "masks with unequal groups": (
        lambda: begin(dst.Static(0.5, structure=dst.NM(2, 4)), initial={"hidden/kernel": MASK}),
        ["masks", "hidden/kernel", "0 to 4 active", "equally many in each"],
    ),
    "masks for a method with a schedule of its own": (
        lambda: begin(dst.GMP(0.5, start=0, stop=9), initial={"hidden/kernel": MASK}),
        ["masks", "schedule of its own", "Leave `initial` out"],
    ),
    # layers that compete
    "random connections of layers that compete": (
        lambda: begin(dst.Static(0.5, allocation="global")),
        ["global allocation", "at random", "initial='magnitude'", "'erk'"],
    ),
    "a layer of its own sparsity among those that compete": (
        lambda: begin(
            dst.GMP(0.5, allocation="lamp", start=0, stop=9),
            overrides={"hidden/kernel": {"sparsity": 0.2}},
        ),
        ["global allocation", "hidden/kernel", "Leave them dense"],
    ),
    "fixed groups in layers that compete": (
        lambda: begin(
            dst.GMP(0.5, allocation="global", structure=dst.ConstantFanIn(), start=0, stop=9)
        ),
        ["moves weights freely", "heads/kernel", "count of every group", "'erk'"],
    ),
    "units of different sizes that compete": (
        lambda: begin(
            dst.GMP(0.5, allocation="global", start=0, stop=9),
            overrides={"hidden/kernel": {"structure": dst.Block(2, 2)}},
        ),
        ["one size", "'hidden/kernel': 4", "'erk'"],
    ),
    "layers that may be emptied": (
        lambda: dst.Global(min_active=0),
        ["min_active of a global allocation", ">= 1", "0"],
    ),
    "more kept than there are": (
        lambda: begin(dst.GMP(0.9, allocation=dst.Global(min_active=20), start=0, stop=9)),
        ["leaves 32 active units to 2 layers", "min_active=20", "Lower the sparsity or min_active"],
    ),
    # what single methods need
    "stages of MEST that do not match": (
        lambda: dst.MEST(0.5, extra=(0.1, 0.0), stages=(10, 20), every=5),
        ["extra", "one entry more than", "(0.1, 0.0)", "(10, 20)"],
    ),
    "a last stage of MEST that exchanges": (
        lambda: dst.MEST(0.5, extra=(0.1, 0.05, 0.02), every=5),
        ["extra", "end with 0", "0.02"],
    ),
    "a single stage of MEST": (
        lambda: dst.MEST(0.5, extra=(0.0,), stages=(), every=5),
        ["extra", "one at least", "stages=()"],
    ),
    "an extra of MEST that is rounded to nothing": (
        lambda: resolved(dst.MEST(0.5, extra=(0.01, 0.0), stages=(9,), every=1)),
        ["no connection would ever be exchanged", "8 active units", "w", "Drop more"],
    ),
    "an extra of MEST beyond all weights": (
        lambda: dst.MEST(0.9, extra=(0.2, 0.1, 0.0), every=5),
        ["sparsity with its extra", "[0, 1)", "1.1"],
    ),
    "a soft bound beyond the dense network": (
        lambda: dst.MEST(0.1, extra=(0.2, 0.1, 0.0), soft_bound=True, every=5),
        ["sparsity with its extra", "[0, 1)", "-0.1"],
    ),
    "windows that overlap": (
        lambda: dst.RigL(0.9, every=10, accumulate=11),
        ["accumulate", "every=10", "11", "overlap"],
    ),
    "windows that overlap, in percent": (
        lambda: dst.SRigL(0.9, every="1%", accumulate=11).rule(steps=1000),
        ["accumulate", "every=10", "11", "overlap"],
    ),
    "a drop fraction that is rounded to nothing": (
        lambda: resolved(dst.RigL(0.75, drop_fraction=0.2, every=1, stop=9)),
        ["no connection would ever be exchanged", "4 active units", "w", "rounding='ceil'"],
    ),
    "an output layer that is none": (
        lambda: forced(dst.SRigL(0.5, output="heads/kernl", every=1, stop=9)),
        ["output", "'heads/kernl'", "mean 'heads/kernel'", "hidden/kernel"],
    ),
    "an interval that nobody specified": (
        lambda: dst.SNFS(0.5).rule(steps=100),
        ["every is missing", "end of every epoch", "every="],
    ),
    "masks that are never lifted": (
        lambda: dst.SPDF(0.5).rule(steps=100),
        ["SPDF", "lift=", "fine-tuning"],
    ),
    "compute without percentages": (
        lambda: dst.GMP(0.5, compute=True, start=10),
        ["compute=True", "percentages", "start=10"],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_method_that_cannot_work_says_why(name):
    assert_says(*CALLS[name])
