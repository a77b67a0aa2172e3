"""Methods on numbers worked by the rules of the papers and codes that their docstrings name. Adam
at grown weights is in ``test_cold_start``, the cubic ramp in ``test_schedule``, its ladder in
``test_topology``."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.rules.allocation import zeros
from dst.rules.ramps import compute_window
from dst.rules.rule import HowMany, Rule, Which
from dst.rules.schedule import UpdateSchedule
from dst.rules.scores import Connections, gradient, lamp, saliency
from tests.reference.canonical import G, M, W
from tests.runs import QUICK


def started(method, params, **options):
    """Transformation, masked parameters and state."""
    inner = options.pop("inner", optax.sgd(0.0))
    tx = dst.sparsify(inner, method, **options)
    params = {name: jnp.asarray(w, jnp.float32) for name, w in params.items()}
    state = tx.init(params)
    return tx, dst.apply_masks(params, state), state


def stepped(tx, grads, state, params, topology=True):
    """Parameters and state after one update."""
    grads = {name: jnp.asarray(g, jnp.float32) for name, g in grads.items()}
    program = partial(jax.jit, static_argnames="topology", compiler_options=QUICK)(tx.update)
    updates, state = program(grads, state, params, topology=topology)
    return optax.apply_updates(params, updates), state


def bits(state):
    return {name: np.asarray(m).astype(int).tolist() for name, m in dst.masks(state).items()}


def test_rigls_drop_fraction_ends_at_its_stop_after_a_late_start_too():
    """google-research/rigl, ``get_drop_fraction``, counts from 0 over stop - start steps: nothing
    would change from step 8000 on."""
    fraction = dst.RigL(0.9, start=2000, stop=10_000).rule().how_many.fraction
    assert fraction(8000) == pytest.approx(0.15 * (1 + np.cos(0.8 * np.pi)))
    assert fraction(9900) > 0 == fraction(10_000)


# Methods that move budgets between layers


def test_snfs_gives_each_layer_its_share_of_the_regrowth():
    """Two layers of 100 active weights, mean momenta .02 and .06, half exchanged."""
    shape = (20, 20)
    method = dst.SNFS(0.75, drop_fraction=0.5, decay="constant", every=1, start=0, stop=9)
    tx, params, state = started(method, {"a": np.ones(shape), "b": np.ones(shape)})
    grads = {"a": np.full(shape, 0.02), "b": np.full(shape, 0.06)}
    params, state = stepped(tx, grads, state, params)
    assert {name: int(n) for name, n in state.active.items()} == {"a": 75, "b": 125}
    dst.check_invariants(state, params)


def test_a_weight_that_snfs_drops_and_regrows_keeps_its_value():
    """Three of seven are dropped, and -.1 has the largest momentum. TimDettmers/sparse_learning,
    sparselearning/core.py, ``truncate_weights``, applies the mask once, after growth."""
    method = dst.SNFS(5 / 12, drop_fraction=0.3, decay="constant", every=1, start=0, stop=9)
    tx, params, state = started(method, {"w": W}, initial={"w": M})
    params, state = stepped(tx, {"w": G}, state, params)
    assert bits(state)["w"] == [[1, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 1]]
    expected = np.array([[0.5, -0.1, 0, 0.8], [0, 0, -0.7, 0], [0, 0, 0, -0.4]], np.float32)
    np.testing.assert_array_equal(params["w"], expected)


@pytest.mark.parametrize(("b2", "grown"), [(None, 1), (0.999, 2)])
def test_snfs_grows_by_momentum_or_by_what_adam_makes_of_it(b2, grown):
    """One large gradient against four small ones. TimDettmers/sparse_learning, core.py,
    ``get_momentum_for_weight``: the optimizer's momentum, over the root of Adam's second moment."""
    settings = {"drop_fraction": 0.25, "decay": "constant", "every": 4, "start": 3, "stop": 9}
    method = dst.SNFS(1 / 3, b2=b2, **settings)
    weights = np.array([[3, 0, 0], [2, 1, 1.5]])
    tx, params, state = started(method, {"w": weights}, initial={"w": weights != 0})
    for count in range(4):
        slopes = {"w": [[0, 8.0 if count == 0 else 0, 1.0], [0, 0, 0]]}
        params, state = stepped(tx, slopes, state, params, topology=tx.fires(count))
    assert np.flatnonzero(bits(state)["w"][0]).tolist() == [0, grown]


def test_granet_follows_its_schedule_and_reaches_its_end():
    """VITA-Group/GraNet, CIFAR/sparselearning/core.py, ``pruning``: the k-th pruning has gone k of
    all intervals, so that the first one prunes. It keeps int(N (1 - s))."""
    rule = dst.GraNet(0.9, 0.5, every=1000, prune_stop=8000, stop=12_000).rule()
    sparsity = [float(rule.how_many.ramp(t) * 9 / 10) for t in rule.when.steps()]
    curve = [0.632031, 0.73125, 0.802344, 0.85, 0.878906, 0.89375, 0.899219, 0.9]
    assert sparsity == pytest.approx([*curve, 0.9, 0.9, 0.9], abs=5e-7)
    ours = [1000 - zeros(1000, rule.how_many.ramp(t) * 9 / 10) for t in range(0, 8001, 1000)]
    code = [500, 367, 268, 197, 149, 121, 106, 100]
    assert ours == [500, 368, 269, 198, 150, 122, 107, 101, 100]
    assert all(0 <= n - m <= 1 for n, m in zip(ours, code, strict=False))


def test_granet_counts_whole_intervals_from_its_start():
    """As the code does: an end off the grid is the grid point before it, and with a start of its
    own the first step only exchanges."""
    early = dst.GraNet(0.9, 0.5, every=1000, prune_stop=8999, stop=12_000).rule()
    assert float(early.how_many.ramp(8000)) == 1 > float(early.how_many.ramp(7000))
    late = dst.GraNet(0.9, 0.5, every=1000, start=2000, prune_stop=10_000, stop=12_000).rule()
    sparsity = [float(late.how_many.ramp(t) * 9 / 10) for t in (2000, 3000, 10_000)]
    assert sparsity == pytest.approx([0.5, 0.632031, 0.9], abs=5e-7)


def test_a_granet_step_worked_by_hand():
    """6 of 10 stay, of all layers together; then half of each layer is exchanged."""
    method = dst.GraNet(0.4, decay="constant", every=1, start=0, prune_stop=0, stop=9)
    weights = {"a": [[0.9, -0.3, 0.2, 0.6]], "b": [[0.1, -0.5, 0.05, 0.7, -0.15, 0.25]]}
    slopes = {"a": [[0.1, 0.9, 0.2, 0.3]], "b": [[0.5, 0.1, 0.8, 0.2, 0.6, 0.05]]}
    tx, params, state = started(method, weights)
    assert bits(state) == {"a": [[1] * 4], "b": [[1] * 6]}
    params, state = stepped(tx, slopes, state, params)
    assert bits(state) == {"a": [[1, 1, 0, 1]], "b": [[0, 0, 1, 1, 1, 0]]}
    np.testing.assert_allclose(params["a"], [[0.9, -0.3, 0, 0.6]])
    # Those that pruning took came back as new connections.
    np.testing.assert_allclose(params["b"], [[0, 0, 0, 0.7, 0, 0]])


def test_snip_keeps_the_connections_to_which_the_loss_is_sensitive():
    """Nothing else happens in that step, and nothing changes afterwards."""
    x, y = jnp.array([[1.0, 1], [2, -1]]), jnp.array([[0.0, 1], [1, 0]])
    weights = {"w": [[1, -2], [0.5, 3]]}
    tx, params, state = started(dst.SNIP(0.5), weights, inner=optax.sgd(0.1))
    grads = jax.grad(lambda p: jnp.sum((x @ p["w"] - y) ** 2) / 4)(params)
    np.testing.assert_allclose(grads["w"], [[1.25, -7], [0.5, 3.5]], atol=1e-5)
    leaf = Connections(params["w"], grads["w"], *[jnp.ones((2, 2), bool)] * 2, jax.random.key(0))
    shares = saliency(leaf) / saliency(leaf).sum()
    expected = [[0.048077, 0.538462], [0.009615, 0.403846]]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    params, state = stepped(tx, grads, state, params)
    assert bits(state)["w"] == [[0, 1], [0, 1]]
    np.testing.assert_array_equal(params["w"], [[0, -2], [0, 3]])


WEIGHTS = {"a": [[1, 2, 3]], "b": [[0.1, 0.2, 0.4, 0.4]]}


def test_lamp_scores_are_shares_of_what_is_not_smaller():
    """Numbers by jaeho-lee/layer-adaptive-sparsity, tools/pruners.py."""
    expected = {"a": [[0.071429, 0.307692, 1]], "b": [[0.027027, 0.111111, 0.5, 1]]}
    for name, weight in WEIGHTS.items():
        w = jnp.array(weight, jnp.float32)
        leaf = Connections(w, w, w != 0, w != 0, jax.random.key(0))
        np.testing.assert_allclose(lamp(leaf), expected[name], atol=1e-6)


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        ("lamp", {"a": [[0, 1, 1]], "b": [[0, 0, 1, 1]]}),
        ("global", {"a": [[1, 1, 1]], "b": [[0, 0, 1, 0]]}),
    ],
)
def test_four_of_seven_weights_of_two_layers(allocation, expected):
    """The layer of small weights keeps one under global magnitude, two under LAMP."""
    method = dst.Static(0.43, allocation=allocation)
    assert bits(started(method, WEIGHTS, initial="magnitude")[2]) == expected


# Methods of one layer


def test_accumulated_gradients_are_averaged_before_their_magnitude_is_taken():
    """As in calgaryml/condensed-sparsity: the last four steps, with the topology step's own; the
    first is outside."""
    method = dst.RigL(0.5, drop_fraction=0.9, decay="constant", accumulate=4, every=4, stop=9)
    tx, params, state = started(method, {"w": np.ones((2, 2))})
    for g in ([9, 9], [1, -1], [-1, -1], [1, -1], [-1, 0.2]):
        fires = bool(tx.fires(int(state.count)))
        params, state = stepped(tx, {"w": [g, g]}, state, params, fires)
    np.testing.assert_allclose(abs(state.variables["w"]), [[0, 0.7]] * 2, atol=1e-6)
    assert int(state.topology.done) == 1


def test_mest_prunes_below_its_sparsity_and_grows_back():
    """Of 20 weights, 8 stay and 2 are grown, a fifth of those in use."""
    settings = {"extra": (0.1, 0.0), "stages": (8,), "every": 2, "allocation": "uniform"}
    params = {"w": jnp.ones((4, 5))}
    hard = dst.sparsify(optax.sgd(0.1), dst.MEST(0.5, **settings)).plan(params).sparse["w"]
    assert hard.counts.tolist() == [[8, 10]] * 3 + [[10, 10]]
    soft = dst.MEST(0.5, soft_bound=True, **settings)
    soft = dst.sparsify(optax.sgd(0.1), soft).plan(params).sparse["w"]
    # It starts above its sparsity, returns to it before growth, and ends at it.
    assert int(soft.initial) == 12
    assert soft.counts.tolist() == [[10, 12]] * 3 + [[10, 10]]


def test_mest_with_its_authors_profile_leaves_both_ends_dense():
    """boone891214/MEST, profiles/resnet32_cifar/irr/resnet32_0.9.yaml, which lists what is pruned;
    scripts/resnet32/EM: every 5 of 160 epochs from the first on."""
    params = {
        "stem": {"conv": {"kernel": jnp.ones((3, 3, 3, 16))}},
        "block": {"conv": {"kernel": jnp.ones((3, 3, 16, 16))}},
        "out": {"kernel": jnp.ones((16, 10))},
    }
    tx = dst.sparsify(optax.sgd(0.1), dst.mest_resnet(0.9), steps=320)
    counts = {path: x.counts[0].tolist() for path, x in tx.plan(params).sparse.items()}
    assert counts["stem/conv/kernel"] == [432, 432] and counts["out/kernel"] == [160, 160]
    assert counts["block/conv/kernel"] == [2304 - 2119, 2304 - 2073]
    assert [t for t in range(320) if tx.fires(t)] == [*range(0, 240, 10), 240]


def test_mest_ranks_by_magnitude_and_gradient_together():
    """Score of neu-spiral/SparCL, prune_utils/utils_pr.py; exact counts."""
    e = np.arange(20)
    w = np.where(e % 2 == 0, (e - 9.5) / 10, 0).reshape(4, 5)
    kept = np.array([[1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 1, 0, 1, 0]], bool)
    method = dst.MEST(0.5, extra=(0.1, 0.0), stages=(8,), gradient_weight=0.5, every=2)
    tx, params, state = started(method, {"w": w}, initial={"w": w != 0})
    params, state = stepped(tx, {"w": np.cos(e).reshape(4, 5)}, state, params)
    mask = np.asarray(dst.masks(state)["w"])
    assert mask.sum() == 10 and (mask & kept).sum() == 8
    np.testing.assert_array_equal(params["w"], np.where(kept, w, 0).astype(np.float32))


def test_acdc_alternates_as_on_imagenet():
    """The config that ACDC names: 50 dense and 50 sparse epochs of 100."""
    rule = dst.ACDC(0.9).rule(steps=100)
    last = {t: max([s for s in rule.when.steps() if s <= t], default=0) for t in range(100)}
    phases = "".join("S" if rule.how_many.ramp(last[t]) else "D" for t in range(100))
    d, s = "D" * 5, "S" * 5
    assert phases == d * 2 + (s + d) * 6 + s + d * 2 + s * 3
    assert phases.count("D") == 50


def test_an_acdc_cycle_worked_by_hand():
    """Pruned weights come back from zero, and all momentum starts at zero."""
    g = {"w": [[0.05, 0.02, -0.1, 0.3, 0.1, 0]]}
    method = dst.ACDC(0.5, every=1, start=0, stop=4)
    inner = optax.sgd(0.5, momentum=0.9)
    tx, params, state = started(method, {"w": [[0.9, -0.1, 0.4, 0.05, -0.6, 0.2]]}, inner=inner)
    params, state = stepped(tx, g, state, params)
    assert bits(state)["w"] == [[1, 0, 1, 0, 1, 0]]
    sparse = [[0.875, 0, 0.45, 0, -0.65, 0]]
    np.testing.assert_allclose(params["w"], sparse, atol=1e-6)
    params, state = stepped(tx, g, state, params)  # the decompression itself moves nothing
    assert bits(state)["w"] == [[1] * 6]
    np.testing.assert_allclose(params["w"], sparse, atol=1e-6)
    params, state = stepped(tx, g, state, params, topology=False)
    np.testing.assert_allclose(params["w"], [[0.85, -0.01, 0.5, -0.15, -0.7, 0]], atol=1e-6)


def test_an_srigl_step_worked_by_hand():
    """There rows are neurons, here columns are. The last layer loses none."""
    w = np.array([[0.9, 0.8, 0, 0], [0, 0.7, 0.6, 0], [0.05, 0, 0, 0.04], [0.5, 0, 0.4, 0]])
    g = np.array([[0, 0, 0.9, 0.1], [0.8, 0, 0, 0.2], [0, 0.05, 0.03, 0], [0, 0.3, 0, 0.7]])
    method = dst.SRigL(
        0.5, gamma=0.5, drop_fraction=0.25, decay="constant", allocation="uniform", every=1, stop=9
    )
    masks = {"a": (w != 0).T, "z": (w != 0).T}
    tx, params, state = started(method, {"a": w.T, "z": w.T}, initial=masks)
    params, state = stepped(tx, {"a": g.T, "z": g.T}, state, params)
    mask = np.asarray(dst.masks(state)["a"]).T.astype(int).tolist()
    assert mask == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert np.asarray(dst.masks(state)["z"]).sum(0).tolist() == [2, 2, 2, 2]
    assert state.active["a"] == 6 and state.active["z"] == 8


def test_srigl_calls_more_gradients_salient_where_active_weights_are_zero():
    """Four of six active weights are zero, so two can be kept and four are dropped: the four
    largest gradients are salient, those of the other neurons. With the one of the drop fraction
    both would be ablated. calgaryml/condensed-sparsity, rigl_constant_fan.py, ``n_prune``."""
    w = np.array([[0.9, 0.8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    g = np.array([[0.1, 0.1, 0, 0], [0, 0, 0.9, 0.8], [0.7, 0.6, 0, 0]])
    mask = np.array([[1, 1, 0, 0]] * 3, bool)
    method = dst.SRigL(
        0.5, gamma=1.0, drop_fraction=0.17, decay="constant", allocation="uniform", every=1, stop=9
    )
    masks = {"a": mask.T, "z": mask.T}
    tx, params, state = started(method, {"a": w.T, "z": w.T}, initial=masks)
    params, state = stepped(tx, {"a": g.T, "z": g.T}, state, params)
    mask = np.asarray(dst.masks(state)["a"]).T.astype(int).tolist()
    assert mask == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]


def test_a_neuron_with_too_many_weights_keeps_its_largest():
    """Weights .3, .9, .8, .1 with the first three active; two may be."""
    rule = Rule(
        0.25,
        structure=dst.ConstantFanIn(),
        when=UpdateSchedule(0, 1, 9),
        how_many=HowMany(
            allocation="uniform", counts=lambda inputs: [(jnp.int32([2]), jnp.int32([2]))]
        ),
        which=Which(grow=gradient),
    )
    w = np.array([[0.3, 0.9, 0.8, 0.1]]).T
    initial = {"w": np.array([[1, 1, 1, 0]], bool).T}
    tx, params, state = started(rule, {"w": w}, initial=initial)
    _, state = stepped(tx, {"w": w}, state, params)
    assert np.asarray(dst.masks(state)["w"])[:, 0].tolist() == [False, True, True, False]


def test_blocks_are_ranked_by_the_sum_of_their_weights():
    """A tie goes to the first block. Tenfold, so that sums are exact."""
    w = [[9, 1, 2, 2], [0, 0, 3, 3], [4, 4, 8, 0], [4, 4, 0, 0]]
    method = dst.Static(0.5, allocation="uniform", structure=dst.Block(2, 2))
    _, _, state = started(method, {"w": w}, initial="magnitude")
    assert bits(state)["w"] == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_smet_has_the_settings_of_its_paper():
    """QiaoXiao7282/SMET, scripts and sparselearning; the ramp of 100 steps is ours."""
    rule = dst.smet(0.9).rule(steps=1000)
    assert (rule.when.first, rule.when.every, rule.when.last) == (100, 100, 900)
    assert rule.how_many.fraction(0) == 0.2 and rule.how_many.fraction(1000) == pytest.approx(0.005)
    assert (rule.which.regrow, rule.reset.regrow_value, rule.reset.cold_start) == (
        "forbid",
        "zero",
        100,
    )


@pytest.mark.parametrize(("active", "fraction"), [(10, 0.25), (7, 0.1), (100, 0.2), (3, 0.01)])
def test_smet_keeps_the_whole_part_of_what_it_keeps(active, fraction):
    """sparselearning/core_dst.py, ``magnitude_prune_block``: ``int(n (1 - f))`` stay."""
    rule = dst.smet(0.9, drop_fraction=fraction, decay="constant").rule(steps=1000)
    assert active - rule.exchanged(active, 100) == int(active * (1 - fraction))


@pytest.mark.parametrize("inner", [optax.sgd(1.0), optax.adam(1.0)], ids=["sgd", "adam"])
def test_smet_scales_the_updates_of_grown_weights_not_their_moments(inner):
    """By .01, .02, ... of a step, where damping the stored moment (SMET's code) would
    give .01, .0106, .0113, ... Adam's bias correction counts from their growth, as in its code."""
    method = dst.smet(0.5, every=50, stop=100, drop_fraction=0.5)
    tx, params, state = started(method, {"w": np.ones((4, 4))}, inner=inner)
    for count in range(51):
        params, state = stepped(tx, {"w": np.zeros((4, 4))}, state, params, tx.fires(count))
    grown = np.asarray(dst.masks(state)["w"] & (params["w"] == 0))
    assert grown.sum() > 1
    weights = [params["w"][grown][0]]
    for _ in range(5):
        params, state = stepped(tx, {"w": -np.ones((4, 4))}, state, params, topology=False)
        weights.append(params["w"][grown][0])
    steps = np.diff(weights)
    np.testing.assert_allclose(steps, [0.01, 0.02, 0.03, 0.04, 0.05], atol=1e-5)


def test_asp_keeps_two_of_four_along_the_inputs():
    """Ties go to the first."""
    row = [0.1, -0.9, 0.4, 0.4, 0, 0.2, -0.3, 0.05]
    _, params, state = started(dst.ASP(), {"w": np.array([row]).T})
    assert np.asarray(dst.masks(state)["w"])[:, 0].astype(int).tolist() == [0, 1, 1, 0] * 2
    np.testing.assert_allclose(params["w"][:, 0], np.array([0, -0.9, 0.4, 0, 0, 0.2, -0.3, 0]))


# The Journey Matters


@pytest.mark.parametrize(
    ("sparsity", "first", "last"),
    [
        (0.5, 0.16129, 0.677419),
        (0.8, 0.090909, 0.545455),
        (0.9, 0.058296, 0.41704),
        (0.0, 0.25, 0.75),
    ],
)
def test_the_steps_of_a_share_of_the_compute_along_the_cubic(sparsity, first, last):
    """Of the formula in the docstring of ``journey``, along the cubic curve."""
    assert compute_window(sparsity, "cubic") == pytest.approx((first, last), abs=1e-6)


@pytest.mark.parametrize(
    ("curve", "sparsity"), [("cubic", 0.8), ("linear", 0.8), ("geometric", 0.8), ("geometric", 0.4)]
)
def test_a_quarter_of_the_compute_is_spent_before_and_after_pruning(curve, sparsity):
    """The definition, on the schedule itself rather than on a formula for it."""
    steps = 20_000
    method = dst.GMP(sparsity, curve=curve, compute=True, every=20)
    cost = np.cumsum(densities(method, steps))
    rule = method.rule(steps=steps)
    spent = cost[[rule.when.first, rule.when.last]] / cost[-1]
    np.testing.assert_allclose(spent, [0.25, 0.75], atol=1e-3)


def densities(method, steps):
    """The share of active weights in every step."""
    rule, density, history = method.rule(steps=steps), 1.0, []
    for t in range(steps):
        if rule.fires(t):
            density = 1 - method.sparsity * float(rule.how_many.ramp(t))
        history.append(density)
    return history


@pytest.mark.parametrize(
    ("sparsity", "start", "stop", "steps", "published", "cubic"),
    [(0.4, 2500, 8875, 13050, 0.7651, 0.7255), (0.8, 2500, 12600, 25050, 0.3984, 0.3605)],
)
def test_the_published_runs_of_sparsellm_pruned_at_a_constant_rate(
    sparsity, start, stop, steps, published, cubic
):
    """Model cards of huggingface.co/tjingrant/sparsellm-1b-40p and -80p: mean densities between
    their steps are those of the geometric curve, and closer where each pruning reaches the
    sparsity of 75 steps later, that of the next one. The cubic curve gives others."""

    def mean(curve, every, ahead=0):
        first, last = start - ahead, stop - ahead
        method = dst.GMP(sparsity, curve=curve, start=first, stop=last, every=every)
        return np.mean(densities(method, steps))

    assert mean("geometric", every=5) == pytest.approx(published, abs=1.5e-3)
    assert mean("geometric", every=75, ahead=75) == pytest.approx(published, abs=3e-4)
    assert mean("cubic", every=5) == pytest.approx(cubic, abs=1e-3)
    assert mean("cubic", every=75, ahead=75) < published - 0.03


@pytest.mark.parametrize(
    ("sparsity", "start", "stop", "steps"), [(0.4, 2500, 8875, 13050), (0.8, 2500, 12600, 25050)]
)
def test_the_journey_is_near_the_published_steps(sparsity, start, stop, steps):
    rule = dst.journey(sparsity, every=75).rule(steps=steps)
    assert rule.when.first == pytest.approx(start, rel=0.03)
    assert rule.when.last == pytest.approx(stop, rel=0.03)
