"""NNX: models that carry their masks, and loops that want none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx


class Net(nnx.Module):
    def __init__(self):
        self.hidden = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
        self.norm = nnx.LayerNorm(16, rngs=nnx.Rngs(1))
        self.out = nnx.Linear(16, 4, rngs=nnx.Rngs(2))

    def __call__(self, x):
        return self.out(jnp.tanh(self.norm(self.hidden(x))))


X = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
RIGL = dst.RigL(sparsity=0.75, every=2, stop=100, drop_fraction=0.5)


def loss_fn(model, x):
    return jnp.mean((model(x) - 1) ** 2)


@nnx.jit(static_argnames="topology")
def step(model, optimizer, x, topology=None):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x)
    optimizer.update(model, grads, topology=topology)
    return loss


def test_a_model_carries_its_masks_and_topology_steps_write_them():
    model = Net()
    optimizer = dst.nnx.Optimizer(model, optax.adam(1e-2), RIGL)
    assert set(dst.nnx.masks(model)) == {"hidden/kernel", "out/kernel"}
    before = dst.nnx.masks(model)
    dst.nnx.check_invariants(model, optimizer)
    for count in range(4):
        step(model, optimizer, X, topology=optimizer.tx.fires(count))
    dst.nnx.check_invariants(model, optimizer)
    after = dst.nnx.masks(model)
    assert any((before[path] != after[path]).any() for path in after)
    mask_state = nnx.state(model, dst.nnx.Mask)
    assert len(jax.tree.leaves(mask_state)) == 2


def test_a_tampered_copy_is_reported():
    model = Net()
    optimizer = dst.nnx.Optimizer(model, optax.sgd(1e-2), RIGL)
    mask = model.hidden.kernel_mask.get_value()
    model.hidden.kernel_mask.set_value(~mask)
    with pytest.raises(dst.InvariantError, match="hidden/kernel: the mask of the model"):
        dst.nnx.check_invariants(model, optimizer)


def test_from_masks_takes_the_masks_that_the_model_carries(tmp_path):
    model = Net()
    dst.nnx.Optimizer(model, optax.sgd(1e-2), dst.Static(sparsity=0.75))
    carried = dst.nnx.masks(model)
    dst.save_masks(tmp_path / "masks.safetensors", carried)
    optimizer = dst.nnx.Optimizer(model, optax.sgd(1e-2), dst.FromMasks())
    for path, mask in dst.load_masks(tmp_path / "masks.safetensors").items():
        np.testing.assert_array_equal(mask, carried[path])
        np.testing.assert_array_equal(np.asarray(dst.masks(optimizer.opt_state)[path]), mask)
    with pytest.raises(ValueError, match="carries no masks"):
        dst.nnx.Optimizer(Net(), optax.sgd(1e-2), dst.FromMasks())


def test_ordinary_loops_work_without_attached_masks():
    model = Net()
    optimizer = dst.nnx.Optimizer(model, optax.sgd(1e-2), RIGL, attach_masks=False)
    graphdef, params, rest = nnx.split(model, nnx.Param, nnx.RngState)  # exhaustive
    average = jax.tree.map(lambda x: 0.5 * x, nnx.state(model))  # over the whole state
    grads = jax.grad(lambda p: loss_fn(nnx.merge(graphdef, p, rest), X))(params)
    optimizer.update(model, grads, topology=True)
    dst.nnx.check_invariants(model, optimizer)
    assert jax.tree.structure(average) == jax.tree.structure(nnx.state(model))
    assert not jax.tree.leaves(nnx.state(model, dst.nnx.Mask))


class Boxed(nnx.Module):
    """Parameters in containers, used by iterating over them."""

    def __init__(self):
        key = jax.random.key(0)
        shapes = {"a": (8, 16), "b": (16, 4)}
        made = {k: nnx.Param(jax.random.normal(key, s)) for k, s in shapes.items()}
        self.weights = nnx.Dict(made)
        self.more = nnx.List([nnx.Param(jax.random.normal(key, (4, 4))) for _ in range(2)])

    def __call__(self, x):
        for weight in [*self.weights.values(), *self.more]:
            x = x @ weight.get_value()
        return x


def test_masks_of_parameters_in_containers_are_beside_the_container():
    plain, model = Boxed(), Boxed()
    without = dst.nnx.Optimizer(plain, optax.sgd(1e-2), RIGL, attach_masks=False)
    optimizer = dst.nnx.Optimizer(model, optax.sgd(1e-2), RIGL)
    assert (len(model.weights), len(model.more)) == (2, 2)
    assert set(dst.nnx.masks(model)) == {"weights/a", "weights/b", "more/0", "more/1"}
    for count in range(4):
        for sides in ((plain, without), (model, optimizer)):
            step(*sides, X, topology=optimizer.tx.fires(count))
    np.testing.assert_array_equal(plain(X), model(X))
    dst.nnx.check_invariants(model, optimizer)
    dst.nnx.detach(model)
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(nnx.state(Boxed()))


def test_a_container_alone_cannot_hold_masks():
    model = nnx.List([nnx.Param(jnp.ones((4, 4)))])
    with pytest.raises(ValueError, match=r"0 lies in a List.*attach_masks=False"):
        dst.nnx.Optimizer(model, optax.sgd(1e-2), dst.Static(0.5))


class Made(nnx.Module):
    """A layer with a mask of its own, as autoregressive networks have."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((4, 4)))
        self.kernel_mask = np.tril(np.ones((4, 4), bool))

    def __call__(self, x):
        return x @ jnp.where(self.kernel_mask, self.kernel.get_value(), 0)


def test_a_mask_that_the_module_has_of_its_own_stays():
    model = Made()
    optimizer = dst.nnx.Optimizer(model, optax.sgd(1e-2), dst.SET(0.5, every=1, stop=100))
    step(model, optimizer, np.ones((2, 4), np.float32), topology=True)
    np.testing.assert_array_equal(model.kernel_mask, np.tril(np.ones((4, 4), bool)))
    assert set(dst.nnx.masks(model)) == {"kernel"}
    dst.nnx.check_invariants(model, optimizer)
    model.kernel_sparsity_mask = 0
    with pytest.raises(ValueError, match=r"kernel_mask and kernel_sparsity_mask of its own"):
        dst.nnx.Optimizer(model, optax.sgd(1e-2), dst.Static(0.5))


class Normed(nnx.Module):
    """Parameters, running statistics and the state of a random layer."""

    def __init__(self):
        self.hidden = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(16, rngs=nnx.Rngs(1))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(2))

    def __call__(self, x):
        return self.dropout(self.norm(self.hidden(x)))


@pytest.mark.parametrize("form", ["model", "state"])
def test_only_parameters_of_a_model_count_as_weights(form, tmp_path):
    model = Normed()
    optimizer = dst.nnx.Optimizer(model, optax.sgd(1e-2), dst.Static(0.75))
    given = model if form == "model" else nnx.state(model)
    state, params = optimizer.opt_state, nnx.state(model, nnx.Param)
    assert dst.table(state, given) == dst.table(state, params)
    expected = dst.metrics(state, params)["sparsity_model"]
    assert float(dst.metrics(state, given)["sparsity_model"]) == float(expected)
    assert float(expected) == pytest.approx(96 / 176)
    dst.save_weights(tmp_path / "w.safetensors", given)
    assert set(dst.load_weights(tmp_path / "w.safetensors")) == {
        "hidden/kernel",
        "hidden/bias",
        "norm/scale",
        "norm/bias",
    }


def test_accumulated_micro_batches_are_one_update_of_the_schedule():
    halves = [X[:8], X[8:]]
    method = dst.RigL(sparsity=0.75, every=2, stop=100, drop_fraction=0.5)
    whole, parts = Net(), Net()
    one = dst.nnx.Optimizer(whole, optax.sgd(1e-2), method)
    two = dst.nnx.Optimizer(parts, optax.sgd(1e-2), method, accumulate=2)
    for _ in range(4):
        step(whole, one, X)
        for half in halves:
            step(parts, two, half)
        for path, mask in dst.masks(one.opt_state).items():
            np.testing.assert_array_equal(mask, dst.masks(two.opt_state)[path])
            np.testing.assert_array_equal(mask, dst.nnx.masks(parts)[path])
    assert int(dst.metrics(two.opt_state)["topology_steps"]) == 1
    dst.nnx.check_invariants(parts, two)


def test_accumulation_inside_is_refused():
    for inner in (
        optax.MultiSteps(optax.sgd(0.1), 4),
        optax.chain(optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation()),
    ):
        with pytest.raises(ValueError, match=r"optax.MultiSteps\(dst.sparsify.*accumulate=n"):
            dst.nnx.Optimizer(Net(), inner, dst.Static(0.5))


def test_detach_leaves_a_plain_model():
    model = Net()
    plain = jax.tree.structure(nnx.state(model))
    dst.nnx.Optimizer(model, optax.sgd(1e-2), dst.Static(sparsity=0.75))
    dst.nnx.detach(model)
    assert jax.tree.structure(nnx.state(model)) == plain


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (lambda r: nnx.Linear(4, 6, rngs=r), "i o"),
        (lambda r: nnx.LinearGeneral((2, 4), (3, 5), axis=(-2, -1), rngs=r), "i i o o"),
        (lambda r: nnx.Conv(3, 4, (3,), rngs=r), "k i o"),
        (lambda r: nnx.Conv(3, 4, (3, 3), rngs=r), "k k i o"),
        (lambda r: nnx.Einsum("abc,cde->abde", (4, 5, 6), rngs=r), "i o o"),
        (lambda r: nnx.LayerNorm(4, rngs=r), None),
    ],
)
def test_modules_say_what_their_kernel_axes_mean(module, expected):
    assert dst.nnx.axes(module(nnx.Rngs(0))) == expected


def test_attention_projections_are_allocated_as_merged_kernels():
    model = nnx.MultiHeadAttention(4, 16, rngs=nnx.Rngs(0))
    options = {"attach_masks": False}
    optimizer = dst.nnx.Optimizer(model, optax.sgd(0.1), dst.Static(sparsity=0.5), **options)
    plan = optimizer.tx.plan(nnx.state(model, nnx.Param))
    assert set(plan.sparse) == {f"{name}/kernel" for name in ("query", "key", "value", "out")}
    for leaf in plan.sparse.values():
        assert leaf.leaf.merged_shape == (16, 16)
    with pytest.raises(ValueError, match="can be read in several ways"):
        dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.5)).init(nnx.state(model, nnx.Param))


def test_a_sparse_layer_costs_few_variables():
    """``nnx.jit`` looks at every variable in every call. A leaf has one in the tree of masks, a
    sparse leaf one in the model; all numbers of all leaves are in five."""

    def variables(layers, make):
        model = nnx.Sequential(*(nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(layers)))
        optimizer = make(model)
        found = [v for x in (model, optimizer) for _, v in nnx.to_flat_state(nnx.state(x))]
        return sum(isinstance(v, nnx.Variable) for v in found)

    for layers in (1, 3):
        plain = variables(layers, lambda m: nnx.Optimizer(m, optax.adam(0.1), wrt=nnx.Param))
        ours = variables(
            layers, lambda m: dst.nnx.Optimizer(m, optax.adam(0.1), dst.RigL(0.5, every=2, stop=9))
        )
        # count, active, hyper, topology, variables
        assert ours == plain + 3 * layers + 5
