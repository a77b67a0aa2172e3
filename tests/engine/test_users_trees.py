"""Parameter trees, optimizers and arguments as users have them: right, or refused with a remedy."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx

KERNEL = {"layer": {"kernel": jnp.ones((8, 8))}}


def leaves(params, **options):
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.5), **options)
    tx.init(params)
    return {leaf.path: leaf for leaf in tx.plan(params).leaves}


def weight(*shape):
    return jax.random.normal(jax.random.key(0), shape)


@pytest.mark.parametrize(
    "path",
    [
        "emb/weight",
        "tok_emb",
        "pos_emb",
        "class_token",
        "rel_pos_bias",
        "registers",
        "codebook",
        "A_log",
        "lora_a",
    ],
)
def test_tables_positions_and_adapters_stay_dense_by_name(path):
    *parents, name = path.split("/")
    branch = {name: weight(1, 17, 48) if path == "pos_emb" else weight(16, 8)}
    for parent in reversed(parents):
        branch = {parent: branch}
    leaf = leaves(KERNEL | branch)[path]
    assert not leaf.sparse and "(by name)" in leaf.why


def test_what_is_sparse_under_an_unknown_name_is_marked_a_guess():
    known = {"kernel": weight(4, 4), "q_proj": weight(4, 4), "w": weight(4, 4), "0": weight(4, 4)}
    found = leaves(known | {"memories": weight(4, 4)})
    assert {path for path, leaf in found.items() if "guess" in leaf.why} == {"memories"}
    assert all(leaf.sparse for leaf in found.values())


def test_a_pattern_that_excludes_leaves_the_rest_of_the_default():
    params = {"a": weight(4, 4), "memories": weight(4, 4, 4), "b": weight(4)}
    with pytest.raises(ValueError, match=r"memories.*select=\['!memories'\]"):
        leaves(params)
    found = leaves(params, select=["!memories"])
    assert {path: leaf.sparse for path, leaf in found.items()} == {
        "a": True,
        "b": False,
        "memories": False,
    }


def test_a_stacked_scalar_stays_dense():
    params = {"blocks": {"w": weight(3, 4, 4), "gate": weight(3), "odd": weight(3, 4)}}
    found = leaves(params, stacked={"blocks/**": 1})
    assert [path for path, leaf in found.items() if leaf.sparse] == ["blocks/w"]
    with pytest.raises(ValueError, match=r"blocks/gate.*no axis left.*`select`"):
        leaves(params, stacked={"blocks/**": 1}, select="blocks/gate")


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 3, 8, 8), "k k i o"),
        ((3, 3, 16, 32), "k k i o"),
        ((5, 5, 1, 6), "k k i o"),
        ((1, 1, 8, 3), "k k i o"),
        ((8, 8, 3, 3), None),  # as PyTorch has it, or a window of 8 x 8
        ((64, 64, 3, 3), None),
    ],
)
def test_a_kernel_that_may_be_in_another_order_is_asked_for(shape, axes):
    if axes is None:
        with pytest.raises(ValueError, match=r"several ways.*'o i k k'"):
            leaves({"conv": weight(*shape)})
        found = leaves({"conv": weight(*shape)}, axes={"conv": "o i k k"})
        assert found["conv"].merged_shape == (3, 3, shape[1], shape[0])
    else:
        assert leaves({"conv": weight(*shape)})["conv"].axes == axes


def test_axes_are_of_kernels_and_a_convolution_gets_its_own():
    params = {"a": {"weight": weight(4, 6)}, "norm": {"weight": weight(4)}}
    found = leaves(params, axes={"**/weight": "o i"})
    assert found["a/weight"].merged_shape == (6, 4) and not found["norm/weight"].sparse
    with pytest.raises(ValueError, match=r"conv/weight.*PyTorch's order is 'o i k k'"):
        leaves(params | {"conv": {"weight": weight(4, 4, 3, 3)}}, axes={"**/weight": "o i"})


def test_a_setting_that_reaches_no_sparse_leaf_is_refused():
    params = KERNEL | {"embed": {"w": weight(8, 8)}}
    with pytest.raises(ValueError, match=r"'embed/\*' matches no sparse leaf: embed/w.*select="):
        leaves(params, overrides={"embed/*": {"sparsity": 0.5}})
    assert leaves(params, overrides={"embed/*": {"sparsity": 0}})
    assert leaves(params, overrides={"**": {"sparsity": 0.75}})["layer/kernel"].sparse


TREES = {
    "two leaves of one path": ({"a/b": weight(4, 4), "a": {"b": weight(4, 4)}}, "path 'a/b'"),
    "a function": (KERNEL | {"f": jnp.tanh}, "f: expected an array"),
    "a number": (KERNEL | {"f": 1.5}, r"f: expected an array, got float 1.5.*jnp.asarray"),
}


@pytest.mark.parametrize("name", TREES)
def test_what_is_no_tree_of_arrays_is_refused(name):
    params, message = TREES[name]
    with pytest.raises(ValueError, match=message):
        leaves(params)


def test_a_leaf_without_weights_stays_dense():
    assert leaves(KERNEL | {"empty": {"w": weight(0, 4)}})["empty/w"].why == "no weights"


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, jax.random.key(0), jnp.ones(2, jnp.uint32)])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        inspect.unwrap(dst.sparsify)(optax.sgd(0.1), dst.Static(0.5), seed=seed)


SET = dst.SET(0.5, every=2, stop=100)


def trained(inner, params, steps=4, method=SET, select=None):
    tx = dst.sparsify(inner, method, select=select)
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    for count in range(steps):
        grads = jax.tree.map(lambda x: 0.1 * x + 0.1, params)
        updates, state = tx.update(grads, state, params, topology=tx.fires(count))
        params = optax.apply_updates(params, updates)
    dst.check_invariants(state, params)
    return params, state


def test_slots_of_another_form_are_left_alone():
    for params in ({"a": weight(8, 8)}, [weight(8, 8), weight(8, 4)]):
        _, state = trained(optax.sm3(0.1), params)
        assert int(state.topology.done) == 1


def test_an_optimizer_whose_slots_cannot_be_reset_is_refused_by_name():
    with pytest.raises(ValueError, match=r"ScaleByLBFGSState.*masks do not change"):
        trained(optax.lbfgs(0.1), {"a": weight(8, 8)})
    dst.sparsify(optax.lbfgs(0.1), dst.Static(0.5)).init({"a": weight(8, 8)})


def test_without_jit_the_masks_are_the_same():
    params = {"a": weight(8, 8), "b": weight(8)}
    expected = dst.masks(trained(optax.adam(0.1), params)[1])
    with jax.disable_jit():
        actual = dst.masks(trained(optax.adam(0.1), params)[1])
    np.testing.assert_array_equal(actual["a"], expected["a"])


def test_the_form_of_threefry_changes_no_mask():
    params = {"a": weight(8, 8), "b": weight(8)}
    expected = dst.masks(trained(optax.adam(0.1), params)[1])
    with jax.threefry_partitionable(False):
        actual = dst.masks(trained(optax.adam(0.1), params)[1])
    np.testing.assert_array_equal(actual["a"], expected["a"])


def test_a_frozen_leaf_keeps_its_weights():
    params = {"a": weight(8, 8), "b": weight(8, 8)}
    labels = {"a": "frozen", "b": "trained"}
    rules = {"frozen": optax.set_to_zero(), "trained": optax.adam(0.1)}
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.partition(rules, labels))
    with pytest.raises(ValueError, match=r"a is frozen.*select=\['!a'\]"):
        trained(inner, params)
    after, _ = trained(inner, params, select=["!a"])
    np.testing.assert_array_equal(after["a"], params["a"])
    # A mask that stays may lie on it.
    after, state = trained(inner, params, method=dst.Static(0.5))
    np.testing.assert_array_equal(after["a"], np.where(dst.masks(state)["a"], params["a"], 0))


def test_a_gradient_that_is_none_is_named():
    params = {"a": weight(8, 8), "b": weight(8)}
    tx = dst.sparsify(optax.sgd(0.1), SET)
    with pytest.raises(ValueError, match=r"b: expected a gradient, got None"):
        tx.update({"a": weight(8, 8), "b": None}, tx.init(params), params)


def test_a_gradient_of_another_shape_is_named():
    params = {"a": weight(8, 8), "b": weight(8)}
    tx = dst.sparsify(optax.sgd(0.1), SET)
    with pytest.raises(ValueError, match=r"b: expected a gradient of shape \(8,\), got \(2, 8\)"):
        tx.update({"a": weight(8, 8), "b": weight(2, 8)}, tx.init(params), params)
    with pytest.raises(ValueError, match=r"topology must be None, True, False or.*got 'yes'"):
        tx.update(params, tx.init(params), params, topology="yes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"a": 0.5}}, r"overrides of a must be a mapping such as.*got 0.5"),
        ({"overrides": ["a"]}, r"overrides must be a mapping by leaf pattern, got \['a'\]"),
        ({"select": 3}, "select must be a pattern, a list of patterns or a function.*got 3"),
        ({"stacked": 1}, "stacked must be a mapping by leaf pattern, got 1"),
    ],
)
def test_an_argument_of_another_form_says_its_form(options, message):
    with pytest.raises(ValueError, match=message):
        leaves({"a": weight(8, 8)}, **options)


def test_a_weight_that_is_not_finite_is_named_as_the_cause():
    params = {"a": weight(8, 8)}
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.5))
    state = tx.init(params)
    off = ~dst.masks(state)["a"]
    bad = {"a": jnp.where(off, jnp.inf, params["a"])}
    with pytest.raises(dst.InvariantError, match="a: inactive weights are inf.*finite weights"):
        dst.check_invariants(state, bad)
    dst.check_invariants(state, dst.apply_masks(bad, state))


def test_a_layer_beyond_32_bits_is_named():
    shape = jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.5))
    with pytest.raises(ValueError, match=r"a of shape \(65536, 65536\) has 4294967296 weights"):
        tx.plan({"a": shape})
    stacked = dst.sparsify(optax.sgd(0.1), dst.Static(0.5), stacked={"a": 1})
    assert stacked.plan({"a": jax.ShapeDtypeStruct((4, 2**15, 2**15), jnp.float32)})


def test_a_restored_state_that_is_a_dictionary_is_refused():
    tx = dst.sparsify(optax.sgd(0.1), SET)
    state = tx.init(KERNEL)
    with pytest.raises(ValueError, match=r"a SparsifyState, got a dict. Restore"):
        tx.update(KERNEL, state._asdict(), KERNEL)


def test_an_update_after_detach_says_what_to_do():
    model = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    optimizer = dst.nnx.Optimizer(model, optax.sgd(0.1), SET)
    dst.nnx.detach(model)
    grads = nnx.grad(lambda m: m(jnp.ones((1, 4))).sum())(model)
    with pytest.raises(ValueError, match=r"kernel: the model carries no mask.*attach_masks=False"):
        optimizer.update(model, grads)


def test_a_fixed_mask_and_a_scale_of_its_own_cost_what_the_layer_costs():
    image, row = jnp.ones((1, 4, 8, 3)), jnp.ones((1, 16))
    plain = nnx.Conv(3, 16, (3, 3), rngs=nnx.Rngs(0))
    masked = nnx.Conv(3, 16, (3, 3), mask=jnp.ones((3, 3, 3, 16)), rngs=nnx.Rngs(0))
    expected = 4 * 8 * 3 * 3 * 3 * 16
    for module in (plain, masked):
        assert dst.nnx.costs(module, image).leaves["kernel"].macs == expected
    normed = nnx.WeightNorm(nnx.Linear(16, 16, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    costs = dst.nnx.costs(normed, row)
    assert costs.leaves["layer_instance/kernel"].macs == 256 and not costs.unknown
