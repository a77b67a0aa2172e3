"""Laws of the start table: every leaf, what it is, why, and how many weights it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.core.tree import survey
from dst.engine.hard_plan import plan_of
from dst.rules.allocation import Allocation
from dst.rules.layout import Layout
from dst.rules.rule import HowMany, Rule

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


PARAMS = {
    "embed": {"embedding": shaped(50, 8)},
    "layers": {"kernel": shaped(3, 8, 8), "bias": shaped(3, 8)},
    "head": {"kernel": shaped(8, 5), "bias": shaped(5)},
    "scale": shaped(5),
    "tiny": shaped(2, 2),
    "steps": shaped(3, 3, dtype=jnp.int32),
}


def planned(rule, params=PARAMS, masks=None, **options):
    options = {"stacked": {"layers/**": 1}, **options} if params is PARAMS else options
    return plan_of(survey(params, **options), rule, masks)


# The table


def test_every_leaf_is_listed_with_its_reason():
    text = str(planned(Rule(0.5)))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert lines["embed/embedding"].endswith("embedding (by name)")
    assert lines["steps"].endswith("int32, not floating-point")
    assert lines["head/bias"].endswith("bias (by name)")
    assert lines["scale"].endswith("1 dimension")
    assert lines["layers/kernel"].endswith("2 dimensions, 3 stacked layers")
    assert lines["tiny"].endswith("2 dimensions (a guess: an unknown name), saturated")
    assert lines["embed/embedding"].split()[1:5] == ["50x8", "i", "o", "400"]


def test_the_table_ends_with_the_integers_that_training_has():
    plan = planned(Rule(0.5))
    active = sum(int(p.initial.sum()) for p in plan.sparse.values())
    assert str(plan).splitlines()[-1] == (
        f"selected: {active} of 236 weights active at the end, sparsity {1 - active / 236:.4f}"
    )


def test_the_plan_keeps_the_order_of_the_tree():
    plan = planned(Rule(0.5))
    assert [x.path for x in plan.leaves] == [x.path for x in survey(PARAMS)]
    assert list(plan.sparse) == ["head/kernel", "layers/kernel", "tiny"]


def test_a_transformation_shows_its_plan():
    import optax

    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.5), stacked={"layers/**": 1})
    assert str(tx.plan(PARAMS)) == str(planned(Rule(0.5)))


# Counts


def test_counts_without_a_schedule_are_one_row():
    plan = planned(Rule(0.5, how_many=HowMany(allocation="uniform")))
    assert plan.sparse["layers/kernel"].counts.tolist() == [[[32] * 3, [32] * 3]]
    assert plan.sparse["head/kernel"].counts.tolist() == [[20, 20]]


def test_counts_of_every_topology_step_come_from_exact_arithmetic():
    rule = dst.RigL(sparsity=0.1, allocation="uniform", drop_fraction=0.7, every=10, stop=40)
    rule = rule.rule()
    leaf = planned(rule, {"w": shaped(10, 10)}).sparse["w"]
    kept = [90 - rule.exchanged(90, t) for t in (10, 20, 30)]
    assert leaf.counts.tolist() == [[n, 90] for n in kept]
    constant = dst.SET(sparsity=0.1, allocation="uniform", drop_fraction=0.7, every=10, stop=40)
    leaf = planned(constant.rule(), {"w": shaped(10, 10)}).sparse["w"]
    assert leaf.counts.tolist() == [[27, 90]]


def test_pruning_never_grows_back():
    method = dst.GMP(sparsity=0.9, start=10, stop=40, every=10)
    leaf = planned(method.rule(), {"w": shaped(10, 10)}).sparse["w"]
    totals = leaf.counts[:, 1].tolist()
    assert int(leaf.initial) == 100 and totals[-1] == 10
    assert totals == sorted(totals, reverse=True)
    assert (leaf.counts[:, 0] == leaf.counts[:, 1]).all()


def test_pruning_starts_at_its_initial_sparsity():
    method = dst.GMP(sparsity=0.9, initial_sparsity=0.5, start=10, stop=40, every=10)
    leaf = planned(method.rule(), {"w": shaped(10, 10)}).sparse["w"]
    assert int(leaf.initial) == 50
    assert leaf.counts[:, 1].tolist() == [50, 22, 12, 10]


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_overrides_set_the_sparsity_of_a_layer(sparsity):
    plan = planned(
        Rule(sparsity, how_many=HowMany(allocation="uniform")),
        overrides={"head/kernel": {"sparsity": 0.75}},
    )
    assert int(plan.sparse["head/kernel"].initial) == 10
    assert plan.sparse["layers/kernel"].initial.tolist() == [64 - int(64 * sparsity)] * 3


def test_sparsity_zero_masks_nothing():
    plan = planned(Rule(0.0))
    assert not plan.sparse
    assert {x.why for x in plan.leaves if x.path == "head/kernel"} == {"sparsity 0"}


# Structures defined here, which the library does not know


@dataclass(frozen=True)
class Block:
    rows: int
    columns: int

    def layout(self, leaf):
        *stacked, rows, columns = leaf.shape
        if rows % self.rows or columns % self.columns:
            raise ValueError(f"{leaf.path}: {leaf.shape} does not divide into blocks.")
        depth = len(stacked)
        return Layout(
            shape=leaf.shape,
            split=(*stacked, rows // self.rows, self.rows, columns // self.columns, self.columns),
            groups=tuple(range(depth)),
            members=(depth + 1, depth + 3),
            counts=tuple(stacked),
        )


@dataclass(frozen=True)
class NOfM:
    m: int

    def layout(self, leaf):
        *stacked, rows, columns = leaf.shape
        depth = len(stacked)
        return Layout(
            shape=leaf.shape,
            split=(*stacked, rows // self.m, self.m, columns),
            groups=(*range(depth), depth, depth + 2),
            counts=tuple(stacked),
        )


def test_counts_are_of_units_per_group_in_every_structure():
    rule = Rule(0.5, structure=NOfM(4), how_many=HowMany(allocation="uniform"))
    plan = planned(
        rule, overrides={"head/kernel": {"structure": Block(2, 5)}, "tiny": {"sparsity": 0}}
    )
    assert plan.sparse["layers/kernel"].initial.tolist() == [2, 2, 2]
    assert plan.sparse["layers/kernel"].layout.weights_per_count == 16
    assert int(plan.sparse["head/kernel"].initial) == 2
    assert str(plan).splitlines()[-1].startswith("selected: 116 of 232 weights")


def test_a_structure_that_does_not_fit_names_the_leaf():
    with pytest.raises(ValueError, match=r"head/kernel: \(8, 5\) does not divide"):
        planned(Rule(0.5, structure=Block(2, 2)))


# Errors


def test_a_layer_that_would_lose_all_its_weights_is_an_error():
    def everything(layers, sparsity):
        return Allocation(dict.fromkeys(layers, 1))

    with pytest.raises(ValueError, match=r"head/kernel of shape \(8, 5\) would lose all"):
        planned(Rule(0.5, how_many=HowMany(allocation=everything)))
    empty = {"head/kernel": np.zeros((8, 5), bool)}
    with pytest.raises(ValueError, match=r"head/kernel of shape \(8, 5\) would lose all"):
        planned(Rule(0.0), masks=empty)
    one_slice = np.ones((3, 8, 8), bool)
    one_slice[1] = False
    with pytest.raises(ValueError, match="layers/kernel of shape .* would lose all"):
        planned(Rule(0.0), masks={"layers/kernel": one_slice})


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.5, float("nan"), "0.5"])
def test_an_override_outside_zero_to_one_is_an_error(sparsity):
    with pytest.raises(ValueError, match=r"head/kernel.*must be a number in \[0, 1\)"):
        planned(Rule(0.5), overrides={"head/kernel": {"sparsity": sparsity}})


def test_unknown_overrides_are_named():
    with pytest.raises(ValueError, match=r"overrides of head/kernel: unknown \['sparsty'\]"):
        planned(Rule(0.5), overrides={"head/kernel": {"sparsty": 0.5}})


def test_nothing_to_make_sparse_is_an_error_that_lists_the_leaves():
    with pytest.raises(ValueError, match="no parameter is left to make sparse") as error:
        planned(Rule(0.5), {"b": shaped(3), "embed": shaped(4, 4)})
    assert "b (3,): 1 dimension" in str(error.value)
    assert "embed (4, 4): embedding (by name)" in str(error.value)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"haed/kernel": np.ones((8, 5), bool)}, "'haed/kernel' is no parameter"),
        ({"head/kernel": np.ones((5, 8), bool)}, r"has shape \(5, 8\), its parameter \(8, 5\)"),
        ({"head/kernel": np.ones((8, 5))}, "must be a bool array, got float64"),
        ({"head/kernel": [[True]]}, "must be a bool array, got list"),
    ],
)
def test_masks_that_do_not_fit_are_an_error(masks, message):
    with pytest.raises(ValueError, match=message):
        planned(Rule(0.0), masks=masks)


def test_initial_masks_replace_the_allocation():
    mask = np.arange(40).reshape(8, 5) % 3 == 0
    plan = planned(Rule(0.9), masks={"head/kernel": mask})
    assert list(plan.sparse) == ["head/kernel"]
    assert int(plan.sparse["head/kernel"].initial) == mask.sum()
    why = {x.path: x.why for x in plan.leaves}
    assert (why["head/kernel"], why["tiny"]) == ("has a mask", "has no mask")


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, 90, float("nan"), True, "0.9", None])
@pytest.mark.parametrize("method", [dst.Static, dst.RigL, dst.SET, dst.GMP, Rule])
def test_a_sparsity_outside_zero_to_one_is_an_error(method, sparsity):
    with pytest.raises(ValueError, match=r"sparsity must be a number in \[0, 1\)"):
        method(sparsity=sparsity)


def test_a_percentage_as_sparsity_is_explained():
    with pytest.raises(ValueError, match=r"got 90. Did you mean 0.9\?"):
        dst.RigL(sparsity=90)
