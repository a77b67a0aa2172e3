"""Laws of cost accounting: published tables, hand counts, and leaves followed through programs."""

from __future__ import annotations

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import dst
import dst.nnx
from dst import flops, models
from dst.core.roles.nnx import owner
from dst.engine.hard_plan import reads_gradient
from dst.rules.allocation import Uniform
from dst.rules.rule import HowMany, Rule, Which
from dst.rules.schedule import UpdateSchedule
from tests.reference import resnet50 as reference


def shape(*lengths, dtype=jnp.float32):
    """An array without contents."""
    return jax.ShapeDtypeStruct(lengths, dtype)


def traced(forward, *inputs, **leaves):
    """Costs of a forward function of parameters of these shapes."""
    return flops.trace(
        forward, {name: shape(*lengths) for name, lengths in leaves.items()}, *inputs
    )


def macs(costs):
    """Multiply-adds by leaf path, of leaves that have any."""
    return {path: leaf.macs for path, leaf in costs.leaves.items() if leaf.macs}


# ---------------------------------------------------------------- published tables


def measured_again(costs, model, sides):
    """Costs in which some convolutions are measured on larger images than they see.

    The published counts come from a counter that pads images which are padded already. That is a
    fact of their measurement, not of the network.
    """
    leaves = dict(costs.leaves)
    for path, side in sides.items():
        module, _ = owner(model, path)
        again = dst.nnx.costs(module, shape(1, side, side, module.in_features))
        leaf = again.leaves["kernel"]
        leaves[path] = flops.LeafCost(
            path, leaf.shape, leaf.macs, leaf.outputs, leaf.channels, leaf.uses
        )
    return flops.Costs(leaves, costs.free, costs.notes)


@lru_cache
def network(name):
    """A network of shapes, and its costs as the published counter sees it."""
    cls = {"resnet50": models.ResNet50, "mobilenet": models.MobileNetV1}[name]
    model = nnx.eval_shape(lambda: cls((224, 224, 3), 1000, rngs=nnx.Rngs(0)))
    costs = dst.nnx.costs(model, shape(1, 224, 224, 3))
    if name == "resnet50":
        sides = {"stem/conv/kernel": 230}
    else:
        sides = {"stem/conv/kernel": 225} | {
            f"pair/{i}/spatial/depthwise/kernel": side
            for i, side in ((1, 113), (3, 57), (5, 29), (11, 15))
        }
    return nnx.state(model, nnx.Param), measured_again(costs, model, sides)


def planned(name, sparsity, distribution, method=dst.RigL, overrides=None, **settings):
    """Plan and rule of a method on a network; uniform leaves the first convolution dense."""
    params, _ = network(name)
    allocation = Uniform("stem/conv/kernel") if distribution == "uniform" else distribution
    method = method(sparsity=sparsity, allocation=allocation, **settings)
    tx = dst.sparsify(optax.sgd(0.1), method, overrides=overrides)
    return tx.plan(params), tx.rule


# The paper's formula, (3 f_S dT + 2 f_S + f_D) / (dT + 1) with dT = 100: one topology step in 101.
EVERY = {"every": 101, "start": 0, "stop": None, "decay": "constant"}
STEPS = 10 * 101

RESNET = [
    ("erk", 0.8, 0.4153, 0.4172, 23.684),
    ("uniform", 0.8, 0.2254, 0.2279, 23.729),
    ("erk", 0.9, 0.2431, 0.2456, 13.499),
    ("uniform", 0.9, 0.1285, 0.1314, 13.532),
    ("erk", 0.95, 0.1230, 0.1259, 8.399),
    ("uniform", 0.95, 0.0801, 0.0831, 8.433),
    ("erk", 0.965, 0.0865, 0.0895, 6.869),
    ("uniform", 0.965, 0.0656, 0.0687, 6.904),
    ("erk, conv1 dense", 0.99, 0.0548, 0.0579, 4.354),
]


def test_dense_resnet_50_costs_what_is_published():
    _, costs = network("resnet50")
    assert not costs.unknown
    assert not costs.notes
    assert costs.free == 0
    assert costs.forward(convention="micronet") == pytest.approx(8.2023e9, rel=1e-5)
    assert costs.forward(convention="micronet") == reference.forward_flops({})
    assert costs.size_bytes(convention="micronet") == pytest.approx(102.122e6, rel=1e-5)
    kernels = [x for x in costs.leaves.values() if x.macs]
    assert len(kernels) == 54
    assert sum(x.size for x in kernels) == 25_502_912
    assert sum(x.channels for x in kernels) == 27_560  # one bias each
    assert costs.step(convention="micronet") * 32_000 * 4096 == pytest.approx(3.225e18, rel=1e-3)


@pytest.mark.parametrize("distribution, sparsity, forward, training, megabytes", RESNET)
def test_sparse_resnet_50_costs_what_is_published(
    distribution, sparsity, forward, training, megabytes
):
    _, costs = network("resnet50")
    name, _, dense = distribution.partition(",")
    overrides = {"stem/conv/kernel": {"sparsity": 0}} if dense else None
    plan, rule = planned("resnet50", sparsity, name, overrides=overrides, **EVERY)
    sparsities = flops.sparsity_at_end(plan)
    one = costs.forward(sparsities, "micronet") / costs.forward(convention="micronet")
    assert one == pytest.approx(forward, abs=1e-4)
    whole = costs.training(plan, STEPS, convention="micronet")
    assert whole.relative == pytest.approx(training, abs=1e-4)
    size = costs.size_bytes(sparsities, "micronet") / 1e6
    assert size == pytest.approx(megabytes, abs=1.5e-3)


@pytest.mark.parametrize("sparsity, expected", [(0.8, 0.6102), (0.9, 0.4954)])
def test_a_dense_gradient_at_every_step_costs_what_snfs_costs(sparsity, expected):
    _, costs = network("resnet50")
    plan, _ = planned("resnet50", sparsity, "erk", dst.Static)
    sparsities = flops.sparsity_at_end(plan)
    dense = costs.step(convention="micronet")
    assert costs.step(sparsities, {}, "micronet") / dense == pytest.approx(expected, abs=1e-4)
    plan, _ = planned("resnet50", sparsity, "erk", dst.SNFS, every=10, stop=90)
    whole = costs.training(plan, 100, convention="micronet")
    assert whole.relative == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sparsity, expected", [(0.8, 0.5603), (0.9, 0.5053)])
def test_gradual_pruning_costs_the_average_over_its_schedule(sparsity, expected):
    # The average of 33 samples, 1000 steps apart.
    _, costs = network("resnet50")
    plan, rule = planned(
        "resnet50", sparsity, "uniform", dst.GMP, start=10_000, stop=25_000, every=1000
    )
    whole = costs.training(plan, 33_000, convention="micronet")
    assert whole.relative == pytest.approx(expected, abs=1e-4)


MOBILENET = [
    (0.75, 0.5257, 0.2910, 4.888, 4.894),
    (0.85, 0.3857, 0.1964, 3.224, 3.229),
    (0.9, 0.2939, 0.1492, 2.393, 2.396),
    (0.95, 0.1812, 0.1019, 1.560, 1.563),
]


def mobilenet_megabytes(costs, sparsity):
    """The published counter takes a depthwise kernel for one with a single output channel."""
    depthwise = [x for path, x in costs.leaves.items() if path.endswith("depthwise/kernel")]
    extra = 4 * sum(x.channels - 1 for x in depthwise)
    return (costs.size_bytes(sparsity, "micronet") - extra) / 1e6


def test_dense_mobilenet_costs_what_is_published():
    _, costs = network("mobilenet")
    assert not costs.unknown
    assert costs.forward(convention="micronet") == pytest.approx(1.1435e9, rel=5e-5)
    assert mobilenet_megabytes(costs, {}) == pytest.approx(16.864, abs=1e-3)


@pytest.mark.parametrize("sparsity, erk, uniform, erk_size, uniform_size", MOBILENET)
def test_sparse_mobilenet_costs_what_the_table_says(sparsity, erk, uniform, erk_size, uniform_size):
    _, costs = network("mobilenet")
    for name, forward, size in (("erk", erk, erk_size), ("uniform", uniform, uniform_size)):
        plan, _ = planned("mobilenet", sparsity, name, dst.Static)
        sparsities = flops.sparsity_at_end(plan)
        one = costs.forward(sparsities, "micronet") / costs.forward(convention="micronet")
        assert one == pytest.approx(forward, abs=1e-4), name
        assert mobilenet_megabytes(costs, sparsities) == pytest.approx(size, abs=1e-3), name


# ---------------------------------------------------------------- training


def perceptron(method):
    """784-300-100-10 under a method: costs, plan, rule."""
    model = nnx.eval_shape(lambda: models.MLP((784,), 10, rngs=nnx.Rngs(0)))
    tx = dst.sparsify(optax.sgd(0.1), method)
    return dst.nnx.costs(model, shape(1, 784)), tx.plan(nnx.state(model, nnx.Param)), tx.rule


def test_the_perceptron_costs_what_its_layers_add_up_to():
    costs, plan, rule = perceptron(dst.RigL(sparsity=0.9, **EVERY))
    sparsities = flops.sparsity_at_end(plan)
    for convention in ("mac", "mac2"):
        dense = costs.forward(convention=convention)
        assert costs.forward(sparsities, convention) / dense == pytest.approx(0.100004, abs=1e-6)
    assert costs.training(plan, STEPS).relative == pytest.approx(0.102974, abs=1e-6)
    # `mac2` doubles; `micronet` adds one operation per output.
    assert costs.forward(convention="mac") == 784 * 300 + 300 * 100 + 1000
    assert costs.forward(convention="micronet") == 2 * (784 * 300 + 30_000 + 1000) + 410


def square(rule):
    """One 100 x 100 leaf under a rule."""
    params = {"w": shape(100, 100)}
    costs = flops.trace(lambda p, x: x @ p["w"], params, shape(1, 100))
    return costs, dst.sparsify(optax.sgd(0.1), rule).plan(params)


def relative(rule, steps, **options):
    """Training cost of one leaf under a rule, relative to dense."""
    costs, plan = square(rule)
    return costs.training(plan, steps, **options).relative


@pytest.mark.parametrize(
    "interval, grow, memory, expected",
    [
        (
            101,
            dst.rules.scores.gradient,
            False,
            0.102970,
        ),  # RigL, dT = 100: (3 f dT + 2 f + 1) / 3 (dT + 1)
        (2, dst.rules.scores.gradient, False, 0.25),  # RigL, dT = 1: the same
        (101, dst.rules.scores.random, False, 0.1),  # SET: f
        (101, None, False, 0.1),
    ],
)
def test_only_gradient_growth_pays_for_dense_gradients(interval, grow, memory, expected):
    rule = Rule(
        sparsity=0.9,
        when=UpdateSchedule(0, interval),
        how_many=HowMany(allocation="uniform"),
        which=Which(grow=grow),
    )
    assert relative(rule, 10 * interval) == pytest.approx(expected, abs=1e-6)


def test_methods_that_choose_their_gradients_pay_for_those():
    def cost(method, steps=100):
        return relative(method.rule(steps), steps)

    assert cost(dst.SNFS(0.9, every=10)) == pytest.approx(0.4)  # (2 f + 1) / 3
    # Top-KAST: forward .1, gradient of inputs .1, of weights .2.
    assert cost(dst.TopKAST(0.9, 0.8)) == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert cost(dst.SRSTE(2, 4)) == pytest.approx((0.5 + 0.5 + 1) / 3)
    # Dense for half of the time, then 2:4 with a gradient for every weight.
    fading = dst.MaskDecay(2, 4, start=0, stop=50)
    assert cost(fading) == pytest.approx((1 + (0.5 + 0.5 + 1) / 3) / 2)
    # 4:4 until step 20, 3:4 until 60, then 2:4.
    narrowing = dst.StructureDecay(2, 4, start=20, stop=100)
    forward = (20 * 1 + 40 * 0.75 + 40 * 0.5) / 100
    assert cost(narrowing) == pytest.approx((2 * forward + 1) / 3)
    # The last 4 of 10 steps, 9 times in 100.
    looking = dst.RigL(0.9, every=10, accumulate=4, stop=100)
    assert cost(looking) == pytest.approx(0.1 + 9 * 4 / 100 * 0.9 / 3)


def test_dense_training_costs_one():
    costs, plan, rule = perceptron(dst.Dense())
    cost = costs.training(plan, 10)
    assert (cost.relative, cost.density) == (1, 1)


def test_masks_change_after_the_step_that_draws_them():
    # Dense until the step of count 3 included, then half of the weights.
    rule = Rule(
        sparsity=0.5,
        when=UpdateSchedule(3, 1, 3),
        how_many=HowMany(allocation="uniform", ramp=lambda count: float(count >= 3)),
    )
    costs, plan = square(rule)
    cost = costs.training(plan, 10)
    assert cost.density == pytest.approx((4 * 1 + 6 * 0.5) / 10)
    assert cost.relative == pytest.approx(cost.density)
    assert costs.training(plan, 3).relative == 1


def test_alternating_phases_cost_their_average():
    # AC/DC: dense and 90 % sparse by turns, ten steps each.
    rule = Rule(
        sparsity=0.9,
        when=UpdateSchedule(9, 10, 89),
        how_many=HowMany(allocation="uniform", ramp=lambda count: float((count + 1) // 10 % 2)),
        which=Which(grow=dst.rules.scores.random),
    )
    assert relative(rule, 100) == pytest.approx((1 + 0.1) / 2)


def test_costs_relative_to_dense_are_those_of_a_loop_over_steps():
    method = dst.GMP(sparsity=0.9, start=5, stop=37, every=4)
    costs, plan, rule = perceptron(method)
    total, done = 0.0, 0
    for count in range(60):
        active = {p: (x.counts[done - 1, 1] if done else x.initial) for p, x in plan.sparse.items()}
        sparsity = {p: 1 - int(n) / plan.sparse[p].leaf.size for p, n in active.items()}
        total += costs.step(sparsity)
        done += rule.fires(count)
    cost = costs.training(plan, 60)
    assert cost.operations == pytest.approx(total / 60)
    assert cost.dense == costs.step()


def test_scores_that_read_the_gradient_are_recognised_by_tracing():
    assert reads_gradient(dst.rules.scores.gradient)
    assert reads_gradient(lambda leaf: jnp.abs(leaf.weight) + jnp.abs(leaf.grad))
    for score in (
        dst.rules.scores.magnitude,
        dst.rules.scores.random,
        dst.rules.scores.random_unexplored,
    ):
        assert not reads_gradient(score)


# ---------------------------------------------------------------- programs


@pytest.mark.parametrize(
    "forward",
    [
        lambda p, x: x @ p["w"].T,
        lambda p, x: jnp.einsum("bi,oi->bo", x, p["w"].astype(jnp.bfloat16)),
        lambda p, x: x @ p["w"].reshape(2, 2, 8).reshape(4, 8).T * 3,
        lambda p, x: x @ (p["w"] * 0.5).T,
        lambda p, x: x @ jnp.where(np.eye(4, 8, dtype=bool), p["w"], 0).T,
        lambda p, x: x @ (jnp.zeros((8, 4)) + p["w"].T),
        lambda p, x: jax.checkpoint(lambda w, x: x @ w.T)(p["w"], x),
        lambda p, x: jax.jit(lambda w, x: x @ w.T)(p["w"], x),
        lambda p, x: jax.vmap(lambda row: p["w"] @ row)(x),
        lambda p, x: x @ (p["w"] / jnp.linalg.norm(p["w"])).T,
        lambda p, x: x @ lax.stop_gradient(p["w"]).T,
        lambda p, x: jnp.concatenate([x @ p["w"][:1].T, x @ p["w"][1:].T], axis=1),
        lambda p, x: lax.cond(x.sum() > 0, lambda: x @ p["w"].T, lambda: x[:, :4]),
    ],
)
def test_a_leaf_is_followed_to_its_product(forward):
    costs = traced(forward, shape(3, 8), w=(4, 8))
    assert macs(costs) == {"w": 3 * 8 * 4}
    assert costs.leaves["w"].outputs == 12
    assert costs.free == 0


def test_custom_rules_for_derivatives_are_followed():
    @jax.custom_vjp
    def linear(w, x):
        return x @ w

    linear.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, g: (saved[1].T @ g, g @ saved[0].T))
    costs = traced(lambda p, x: jax.nn.relu(linear(p["w"], x)), shape(3, 8), w=(8, 4))
    assert macs(costs) == {"w": 96}


def test_layers_stacked_for_scan_count_once_each():
    def forward(p, x):
        return lax.scan(lambda x, layer: (x @ layer["w"] + layer["b"], None), x, p)[0]

    params = {"w": shape(5, 8, 8), "b": shape(5, 1, 8)}
    costs = flops.trace(forward, params, shape(3, 8))
    assert macs(costs) == {"w": 5 * 3 * 8 * 8}
    assert costs.leaves["w"].channels == 5 * 8
    assert costs.leaves["b"].uses == ("elementwise",)
    assert not costs.unknown


def test_a_leaf_of_a_recurrence_counts_at_every_step():
    def forward(p, x):
        start = jnp.zeros((1, 4))
        return lax.scan(lambda h, x: (jnp.tanh(x[None] @ p["w"] + h @ p["u"]), None), start, x)[0]

    costs = traced(forward, shape(7, 8), w=(8, 4), u=(4, 4))
    assert macs(costs) == {"w": 7 * 32, "u": 7 * 16}


def test_a_tied_leaf_counts_in_products_and_not_in_lookups():
    def forward(p, tokens):
        x = p["table"][tokens]
        x, _ = lax.scan(lambda x, _: (jnp.tanh(x), None), x, length=2)
        return jnp.tanh(x @ p["w"]) @ p["table"].T

    costs = traced(forward, shape(6, dtype=jnp.int32), table=(50, 8), w=(8, 8))
    assert macs(costs) == {"table": 6 * 50 * 8, "w": 6 * 64}
    assert costs.leaves["table"].uses == ("lookup", "product")
    assert not costs.unknown
    twice = traced(lambda p, x: x @ p["w"] @ p["w"], shape(3, 8), w=(8, 8))
    assert macs(twice) == {"w": 2 * 3 * 64}


def test_kernels_of_chosen_experts_belong_to_their_leaf():
    def forward(p, x, chosen):
        return jnp.einsum("bi,bio->bo", x, p["w"][chosen])

    costs = traced(forward, shape(3, 8), shape(3, dtype=jnp.int32), w=(10, 8, 4))
    assert macs(costs) == {"w": 3 * 8 * 4}
    assert not costs.unknown


def test_experts_in_groups_of_rows_cost_what_their_rows_cost():
    def forward(p, x, sizes):
        return lax.ragged_dot(x, p["w"], sizes)

    costs = traced(forward, shape(6, 8), shape(3, dtype=jnp.int32), w=(3, 8, 4))
    assert macs(costs) == {"w": 6 * 8 * 4}


def test_leaves_joined_into_one_kernel_share_its_cost():
    def forward(p, x):
        return x @ jnp.concatenate([p["q"], p["k"]], axis=1)

    costs = traced(forward, shape(3, 8), q=(8, 4), k=(8, 2))
    assert macs(costs) == {"q": 3 * 8 * 4, "k": 3 * 8 * 2}
    assert (costs.leaves["q"].outputs, costs.leaves["k"].outputs) == (12, 6)


def test_attention_between_activations_belongs_to_no_leaf():
    model = nnx.eval_shape(
        lambda: nnx.MultiHeadAttention(
            num_heads=2, in_features=8, qkv_features=6, decode=False, rngs=nnx.Rngs(0)
        )
    )
    costs = dst.nnx.costs(model, shape(1, 5, 8))
    assert macs(costs) == {f"{n}/kernel": 5 * 8 * 6 for n in ("query", "key", "value", "out")}
    assert costs.free == 2 * 5 * 5 * 6  # scores and mixing
    assert not costs.unknown
    everything = dict.fromkeys(macs(costs), 1.0)
    assert costs.forward(everything) == costs.free


def test_general_layers_count_merged_axes():
    model = nnx.eval_shape(
        lambda: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), rngs=nnx.Rngs(0))
    )
    costs = dst.nnx.costs(model, shape(7, 2, 3))
    assert macs(costs) == {"kernel": 7 * 6 * 20}
    assert costs.leaves["kernel"].channels == 20


@pytest.mark.parametrize("groups, per_output", [(1, 9 * 8), (2, 9 * 4), (8, 9)])
def test_convolutions_count_the_inputs_of_their_group(groups, per_output):
    model = nnx.eval_shape(
        lambda: nnx.Conv(8, 16, (3, 3), strides=2, feature_group_count=groups, rngs=nnx.Rngs(0))
    )
    leaf = dst.nnx.costs(model, shape(2, 10, 10, 8)).leaves["kernel"]
    assert (leaf.macs, leaf.outputs, leaf.channels) == (2 * 25 * 16 * per_output, 2 * 25 * 16, 16)


def test_a_transposed_convolution_does_not_multiply_the_zeros_between_inputs():
    model = nnx.eval_shape(lambda: nnx.ConvTranspose(3, 4, (2, 2), strides=2, rngs=nnx.Rngs(0)))
    costs = dst.nnx.costs(model, shape(1, 5, 5, 3))
    assert macs(costs) == {"kernel": 25 * 4 * 3 * 4}  # each input, window, input and output


def test_linen_models_count_as_their_twins_do():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), name="conv")(x)
            return nn.Dense(5, name="out")(x.reshape(len(x), -1))

    image = shape(1, 6, 6, 2)
    variables = jax.eval_shape(Net().init, jax.random.key(0), image)
    costs = flops.trace(lambda p, x: Net().apply({"params": p}, x), variables["params"], image)
    assert macs(costs) == {"conv/kernel": 36 * 18 * 4, "out/kernel": 36 * 4 * 5}
    assert not costs.unknown


def test_work_shared_between_devices_is_counted_whole():
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    P = jax.sharding.PartitionSpec
    product = jax.shard_map(
        lambda w, x: x @ w,
        mesh=mesh,
        in_specs=(P(None, "model"), P("data")),
        out_specs=P("data", "model"),
    )
    costs = traced(lambda p, x: product(p["w"], x), shape(6, 8), w=(8, 4))
    assert macs(costs) == {"w": 6 * 8 * 4}


def test_a_loop_of_unknown_length_is_counted_once_and_said():
    def forward(p, x):
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ p["w"], x)

    costs = traced(forward, shape(3, 8), w=(8, 8))
    assert macs(costs) == {"w": 3 * 64}
    assert "while loop of unknown length" in costs.notes[0]


@pytest.mark.parametrize(
    "forward, words",
    [
        (lambda p, x: x @ (p["w"] + 1), "dot_general after add"),
        (lambda p, x: x @ jnp.exp(p["w"]), "dot_general after exp"),
        (lambda p, x: x @ (p["w"] @ p["w"]), "dot_general without data"),
        (lambda p, x: lax.linalg.triangular_solve(p["w"], x), "triangular_solve"),
        (lambda p, x: x, "not used"),
    ],
)
def test_what_is_not_understood_is_listed(forward, words):
    costs = traced(forward, shape(8, 8), w=(8, 8))
    assert not costs.leaves["w"].macs
    assert words in costs.unknown["w"]


def test_what_does_not_depend_on_the_input_is_free():
    def forward(p, x):
        table = jnp.outer(jnp.arange(3.0), jnp.arange(8.0)) @ jnp.eye(8)
        return (x + table) @ p["w"]

    costs = traced(forward, shape(3, 8), w=(8, 4))
    assert costs.forward() == 3 * 8 * 4


def test_the_cost_of_a_state_is_a_scalar_for_loggers():
    params = {"w": jnp.ones((8, 4)), "v": jnp.ones((4, 2))}
    costs = flops.trace(lambda p, x: x @ p["w"] @ p["v"], params, shape(3, 8))
    masks = {path: np.arange(x.size).reshape(x.shape) % 2 == 0 for path, x in params.items()}
    state = dst.sparsify(optax.sgd(0.1), dst.FromMasks(masks)).init(params)
    cost = jax.jit(costs.metrics)(state)["forward_cost"]
    assert costs.forward({"w": 0.5, "v": 0.5}) / costs.forward() == 0.5
    assert cost == pytest.approx(0.5, rel=1e-6)


def test_sizes_are_those_of_packed_weights():
    costs = traced(lambda p, x: x @ p["w"] + p["b"], shape(3, 8), w=(8, 4), b=(1, 4))
    assert costs.size_bytes() == 4 * (32 + 4)
    # Non-zeros, one bit per element, and the bias.
    assert costs.size_bytes({"w": 0.75}) == 4 * 8 + 32 / 8 + 4 * 4
    assert costs.active({"w": 0.75}) == 8 + 4


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda c: c.forward({"v": 0.5}), "'v' is no parameter"),
        (lambda c: c.forward({"w": 90}), r"Did you mean 0\.9"),
        (lambda c: c.forward(convention="flops"), "must be one of"),
        (lambda c: c.size_bytes(convention="mac3"), "Did you mean 'mac"),
        (lambda c: c.training(square(Rule(0.0))[1], 0), "steps must be an integer"),
    ],
)
def test_bad_arguments_are_refused(call, words):
    costs = traced(lambda p, x: x @ p["w"], shape(3, 8), w=(8, 4))
    with pytest.raises(ValueError, match=words):
        call(costs)
