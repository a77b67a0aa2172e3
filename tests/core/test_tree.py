"""Laws of leaf paths, patterns, and of the choice of sparse leaves."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from dst.core import tree
from dst.engine.plan import make
from dst.rules.allocation import ErdosRenyi
from dst.rules.rule import Rule

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def sparse_paths(params, **options):
    return [leaf.path for leaf in tree.survey(params, **options) if leaf.sparse]


# Paths


def test_paths_are_segments_joined_by_slashes():
    params = {"encoder": [{"kernel": shaped(2, 3)}, {"kernel": shaped(3, 4)}], "b": shaped(1)}
    paths, leaves, treedef = tree.flatten(params)
    assert paths == ["b", "encoder/0/kernel", "encoder/1/kernel"]
    assert treedef.unflatten(leaves) == params


def test_nnx_states_have_the_paths_of_their_modules():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])

    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    paths, _, _ = tree.flatten(state)
    assert paths == [f"layers/{i}/{name}" for i in (0, 1) for name in ("bias", "kernel")]
    assert tree.flatten(nnx.to_pure_dict(state))[0] == paths


def test_dataclass_modules_have_paths_of_their_fields():
    @jax.tree_util.register_dataclass
    @dataclass
    class Linear:
        weight: jax.Array
        bias: jax.Array | None

    @jax.tree_util.register_dataclass
    @dataclass
    class Net:
        layers: tuple

    net = Net((Linear(jnp.ones((2, 3)), jnp.ones(3)), Linear(jnp.ones((3, 1)), None)))
    assert tree.flatten(net)[0] == ["layers/0/weight", "layers/0/bias", "layers/1/weight"]
    assert sparse_paths(net) == ["layers/0/weight", "layers/1/weight"]


def test_none_is_no_leaf_and_survives():
    params = {"w": jnp.ones((2, 2)), "b": None}
    paths, leaves, treedef = tree.flatten(params)
    assert paths == ["w"]
    assert treedef.unflatten(leaves)["b"] is None


# Patterns


@pytest.mark.parametrize(
    ("pattern", "path", "verdict"),
    [
        ("w", "w", True),
        ("w", "a/w", False),
        ("*/w", "a/w", True),
        ("*", "a/w", False),
        ("**/w", "w", True),
        ("**/w", "a/b/w", True),
        ("a/**", "a/b/c", True),
        ("a/**", "b/a/c", False),
        ("**", "a/b", True),
        ("**/attn/**", "x/attn/q/kernel", True),
        ("**/attn/**", "x/attention/q", False),
        ("layer_?/kernel", "layer_1/kernel", True),
        ("layer_?/kernel", "layer_12/kernel", False),
        ("layer_*/kernel", "layer_12/kernel", True),
        ("a*", "a/b", False),
        ("a.b", "axb", False),
        ("/a/b/", "a/b", True),
    ],
)
def test_stars_stay_inside_a_segment_and_double_stars_do_not(pattern, path, verdict):
    assert tree.matches(pattern, path) is verdict


def test_the_last_matching_pattern_wins():
    patterns = {"**": 1, "a/**": 2, "a/b": 3}
    assert [tree.lookup(patterns, p) for p in ("x", "a/c", "a/b")] == [1, 2, 3]
    assert tree.lookup({"y": 1}, "x") is None


@pytest.mark.parametrize(
    "options",
    [
        {"select": "encodr/kernel"},
        {"select": ["**", "!encodr/kernel"]},
        {"overrides": {"encodr/kernel": {"sparsity": 0.5}}},
        {"stacked": {"encodr/kernel": 1}},
        {"axes": {"encodr/kernel": "i o"}},
    ],
)
def test_a_pattern_that_matches_nothing_lists_the_paths(options):
    params = {"encoder": {"kernel": shaped(2, 3), "bias": shaped(3)}}
    with pytest.raises(ValueError) as error:
        tree.survey(params, **options)
    message = str(error.value)
    assert message.startswith(f"{next(iter(options))}: pattern 'encodr/kernel' matches no")
    assert "encoder/kernel" in message and "encoder/bias" in message
    assert "Did you mean 'encoder/kernel'?" in message


# Which leaves are sparse


def test_matrices_are_sparse_and_vectors_dense_by_default():
    params = {"w1": shaped(4, 3), "b1": shaped(3), "scale": shaped(), "conv": shaped(3, 3, 4, 8)}
    assert sparse_paths(params) == ["conv", "w1"]
    assert {x.path: x.why for x in tree.survey(params)} == {
        "b1": "1 dimension",
        "conv": "4 dimensions",
        "scale": "0 dimensions",
        "w1": "2 dimensions",
    }


@pytest.mark.parametrize(
    "path",
    [
        "embed/embedding",
        "wte",
        "tok_embeddings/weight",
        "vocab/table",
        "tokens",
        "wpe",
        "pos_embedding",
        "position/table",
        "positional",
        "cls_token",
        "cls",
        "layernorm/scale",
        "LayerNorm_0/scale",
        "norm1/scale",
        "ln_1/scale",
        "ln/scale",
        "bn2/scale",
        "rms_norm/scale",
        "blocks/ln_f/scale",
    ],
)
def test_embeddings_positions_and_norms_stay_dense(path):
    params = {"w": shaped(4, 4)}
    node = params
    *parents, last = path.split("/")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = shaped(6, 4)
    assert sparse_paths(params) == ["w"]
    leaf = next(x for x in tree.survey(params) if x.path == path)
    assert leaf.why.split()[0] in ("embedding", "position", "norm")


def test_the_bias_of_several_heads_stays_dense():
    leaves = tree.survey({"query": {"kernel": shaped(8, 8), "bias": shaped(4, 2)}})
    assert [(x.path, x.sparse) for x in leaves] == [("query/bias", False), ("query/kernel", True)]
    assert leaves[0].why == "bias (by name)"


@pytest.mark.parametrize(
    "path", ["encoder/kernel", "cls_head", "possible", "lm_head", "dense_1", "blend", "linear"]
)
def test_names_that_only_resemble_those_are_sparse(path):
    *parents, last = path.split("/")
    params = {last: shaped(3, 3)}
    for part in reversed(parents):
        params = {part: params}
    assert sparse_paths(params) == [path]


def test_the_slices_of_a_stacked_bias_are_vectors():
    params = {"layers": {"kernel": shaped(5, 4, 4), "bias": shaped(5, 4)}, "head": shaped(4, 2)}
    leaves = {x.path: x for x in tree.survey(params, stacked={"layers/**": 1})}
    assert not leaves["layers/bias"].sparse and leaves["layers/kernel"].sparse
    kernel = leaves["layers/kernel"]
    assert (kernel.layers, kernel.layer_shape, kernel.layer_size) == (5, (4, 4), 16)
    assert kernel.axes == "i o"


@pytest.mark.parametrize("kind", [jnp.int32, jnp.uint8, jnp.bool_])
def test_leaves_that_are_no_floats_stay_dense(kind):
    params = {"w": shaped(2, 2), "table": shaped(9, 9, dtype=kind)}
    assert sparse_paths(params) == ["w"]
    assert sparse_paths(params, select="**") == ["w"]


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_half_precision_leaves_are_sparse(kind):
    assert sparse_paths({"w": shaped(2, 2, dtype=kind)}) == ["w"]


def test_select_adds_and_takes_out_in_order():
    params = {"a": shaped(2, 2), "b": shaped(3), "embed": shaped(4, 4)}
    assert sparse_paths(params, select="embed") == ["embed"]
    assert sparse_paths(params, select=["**", "!b"]) == ["a", "embed"]
    assert sparse_paths(params, select=["!b", "**"]) == ["a", "b", "embed"]
    assert sparse_paths(params, select=lambda path, leaf: leaf.shape[0] == 3) == ["b"]


def test_sparsity_zero_means_dense():
    params = {"a": shaped(2, 2), "b": shaped(2, 2)}
    assert sparse_paths(params, overrides={"b": {"sparsity": 0}}) == ["a"]


@pytest.mark.parametrize("depth", [2, 3])
def test_stacked_axes_must_leave_an_axis(depth):
    with pytest.raises(ValueError, match="no axis left"):
        tree.survey({"w": shaped(2, 2)}, stacked={"w": depth})


def test_stacked_must_count_axes():
    with pytest.raises(ValueError, match="integer >= 0"):
        tree.survey({"w": shaped(2, 2)}, stacked={"w": -1})


# Meaning of axes


def test_matrices_and_convolutions_explain_themselves():
    params = {"conv": shaped(3, 3, 4, 8), "video": shaped(2, 3, 3, 4, 8), "w": shaped(5, 6)}
    leaves = tree.survey(params)
    assert [x.axes for x in leaves] == ["k k i o", "k k k i o", "i o"]
    assert [x.merged_shape for x in leaves] == [(3, 3, 4, 8), (2, 3, 3, 4, 8), (5, 6)]


@pytest.mark.parametrize("shape", [(8, 4, 2), (16, 4, 4, 2)])
def test_an_ambiguous_kernel_is_an_error_with_erk_only(shape):
    params = {"w": shaped(4, 4), "query": {"kernel": shaped(*shape)}}
    with pytest.raises(ValueError, match=r"query/kernel: a kernel of shape .* axes=\{"):
        make(tree.survey(params), Rule(sparsity=0.5, allocation="erk"))
    plan = make(tree.survey(params), Rule(sparsity=0.5, allocation="uniform"))
    assert plan.sparse["query/kernel"].initial == plan.sparse["query/kernel"].leaf.size // 2


def test_merged_head_axes_give_the_sparsity_of_the_matrix():
    """ERK must not change with the shape in which Flax keeps a projection."""
    matrix = {"w": shaped(64, 10), "q": shaped(8, 24), "o": shaped(24, 8)}
    heads = {"w": shaped(64, 10), "q": shaped(8, 4, 6), "o": shaped(4, 6, 8)}
    axes = {"q": "i o o", "o": "i i o"}
    rule = Rule(sparsity=0.7, allocation=ErdosRenyi())
    flat, merged = make(tree.survey(matrix), rule), make(tree.survey(heads, axes=axes), rule)
    assert flat.allocation == merged.allocation
    for path in matrix:
        assert flat.sparse[path].initial == merged.sparse[path].initial


@pytest.mark.parametrize("axes", ["i o", "i o x", "i o o o"])
def test_axes_must_name_every_axis(axes):
    with pytest.raises(ValueError, match="axes of q must be 3 letters"):
        tree.survey({"q": shaped(8, 4, 6)}, axes={"q": axes})


def test_an_empty_tree_has_no_leaves():
    assert tree.survey({}) == []
