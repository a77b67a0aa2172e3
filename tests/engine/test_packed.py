"""Laws of the packed form: it trains the same network as the masked form, in less memory."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

import dst
from tests.runs import QUICK

quick = partial(jax.jit, compiler_options=QUICK)
X, Y = jax.random.normal(jax.random.key(2), (32, 12)), jnp.arange(32) % 8


def params():
    """A layer, two stacked layers, and biases."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "first": {"w": jax.random.normal(keys[0], (12, 16)) / 4, "b": jnp.zeros(16)},
        "blocks": {"w": jax.random.normal(keys[1], (2, 16, 16)) / 4},
        "out": {"w": jax.random.normal(keys[2], (16, 8)) / 4},
    }


def loss(p):
    x = jnp.tanh(X @ p["first"]["w"] + p["first"]["b"][None])
    for w in p["blocks"]["w"]:
        x = x + jnp.tanh(x @ w)
    return optax.softmax_cross_entropy_with_integer_labels(x @ p["out"]["w"], Y).mean()


METHODS = {
    "static": dst.Static(0.75),
    "SET": dst.SET(0.75, every=3, stop=20),
    "RigL": dst.RigL(0.75, every=3, stop=20),
    "RigL, moments of grown weights alone": dst.RigL(0.75, every=3, stop=20, moments="grown"),
    "RigL, values at zero": dst.RigL(0.75, every=3, stop=20, regrow_value="zero"),
    "RigL, fan-in": dst.RigL(0.75, every=3, stop=20, structure=dst.ConstantFanIn()),
    "RigL, blocks": dst.RigL(0.5, every=3, stop=20, structure=dst.Block(2, 2)),
    "RigL, blocks per column": dst.RigL(0.5, every=3, stop=20, structure=dst.BalancedBlock(2, 4)),
    "GMP, blocks per column": dst.GMP(
        0.75, every=3, start=3, stop=18, structure=dst.BalancedBlock(2, 2)
    ),
    "GMP": dst.GMP(0.75, every=3, start=3, stop=18),
    "AC/DC": dst.ACDC(0.75, every=6, start=3, stop=21, allocation="uniform"),
    "MEST": dst.MEST(0.75, every=3, extra=(0.1, 0.05, 0.0), allocation="uniform"),
}
STACKED = {"blocks/w": 1}
INNER = {"adamw": optax.adamw(1e-2), "momentum": optax.sgd(0.1, momentum=0.9)}
SLOW = pytest.mark.evidence


def uneven():
    """Masks with another density in every layer, also in stacked ones."""
    random, draw = np.random.default_rng(3), {"first/w": 0.5, "blocks/w": 0.25, "out/w": 0.125}
    masks = {
        path: random.random(shape) < d
        for (path, d), shape in zip(draw.items(), SHAPES, strict=True)
    }
    masks["blocks/w"][1] &= random.random((16, 16)) < 0.5
    return masks


SHAPES = (12, 16), (2, 16, 16), (16, 8)
SMUPAR = {"scale": "smupar"}
OPTIONS = {"": {}, "smupar": SMUPAR, "smupar, uneven": {**SMUPAR, "initial": uneven()}}


def both(method, inner, options):
    options = {"stacked": STACKED, "steps": 30, **options}
    return dst.sparsify(inner, method, **options), dst.sparsify(
        inner, method, form="packed", **options
    )


def cases():
    for name in METHODS:
        for inner in INNER:
            slow = inner == "momentum" and name not in ("RigL", "AC/DC")
            yield pytest.param(name, inner, "", marks=SLOW if slow else ())
    yield "RigL, blocks per column", "adamw", "smupar"
    yield "RigL", "adamw", "smupar, uneven"


@pytest.mark.parametrize(("name", "inner", "options"), list(cases()))
def test_the_packed_form_trains_what_the_masked_form_trains(name, inner, options):
    masked, tx = both(METHODS[name], INNER[inner], OPTIONS[options])
    start = dst.scale_init(params(), masked)
    jax.tree.map(np.testing.assert_array_equal, dst.scale_init(params(), tx), start)
    state = masked.init(start)
    dense = dst.apply_masks(start, state)
    values, packed_state = dst.pack(start, tx)

    @partial(quick, static_argnums=2)
    def of_masked(p, state, topology):
        updates, state = masked.update(jax.grad(loss)(p), state, p, topology=topology)
        return optax.apply_updates(p, updates), state

    @quick
    def hot(values, state):
        grads = jax.grad(lambda v: loss(dst.unpack(v, state)))(values)
        updates, state = tx.update(grads, state, values, topology=False)
        return optax.apply_updates(values, updates), state

    @quick
    def topology_step(values, state):
        return tx.retopologise(jax.grad(loss)(dst.unpack(values, state)), state, values)

    for count in range(24):
        fires = masked.fires(count)
        assert tx.fires(count) == fires
        dense, state = of_masked(dense, state, fires)
        values, packed_state = (topology_step if fires else hot)(values, packed_state)
        if not fires and count % 5:
            continue
        there = dst.unpack(values, packed_state)
        for path, mask in dst.masks(state).items():
            np.testing.assert_array_equal(dst.masks(packed_state)[path], mask, f"{path} {count}")
            seen = dst.explored(state)[path]
            np.testing.assert_array_equal(dst.explored(packed_state)[path], seen)
        for one, other in zip(jax.tree.leaves(there), jax.tree.leaves(dense), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        dst.check_invariants(packed_state, there)
    ours, theirs = dst.metrics(packed_state, there), dst.metrics(state, dense)
    for key in ("sparsity", "topology_steps", "dropped", "grown"):
        if key in theirs:
            assert float(ours[key]) == float(theirs[key])


@pytest.mark.parametrize("name", ["RigL", "SET", "RigL, blocks per column", "AC/DC"])
def test_a_run_goes_on_in_the_other_form_and_back(name):
    """The reference stays masked all the time."""
    masked, tx = both(METHODS[name], INNER["adamw"], {})

    def dense_step(p, state, topology):
        updates, state = masked.update(jax.grad(loss)(p), state, p, topology=topology)
        return optax.apply_updates(p, updates), state

    def packed_step(values, state, topology):
        grads = jax.grad(loss)(dst.unpack(values, state))
        if topology:
            return tx.retopologise(grads, state, values)
        chosen = jax.grad(lambda v: loss(dst.unpack(v, state)))(values)
        updates, state = tx.update(chosen, state, values, topology=False)
        return optax.apply_updates(values, updates), state

    step, other = (quick(f, static_argnums=2) for f in (dense_step, packed_step))
    reference = dst.apply_masks(params(), masked.init(params())), masked.init(params())
    run = reference
    for count in range(12):
        reference = step(*reference, masked.fires(count))
        if count % 4 < 2:
            run = step(*run, masked.fires(count))
            continue
        values, state = other(*dst.pack(run[0], tx, run[1]), masked.fires(count))
        run = dst.unpack(values, state), dst.unpack_state(state, tx)
        assert jax.tree.structure(run[1]) == jax.tree.structure(reference[1])
        dst.check_invariants(run[1], run[0])
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            (run[0], run[1].inner_state),
            (reference[0], reference[1].inner_state),
        )
        for path, mask in dst.masks(reference[1]).items():
            np.testing.assert_array_equal(dst.masks(run[1])[path], mask, path)


def test_what_does_not_fit_the_packed_form_is_refused():
    masked, tx = both(METHODS["RigL"], INNER["adamw"], {})
    state = masked.init(params())
    with pytest.raises(ValueError, match="expected the packed form, got the other one"):
        dst.unpack_state(state, tx)
    with pytest.raises(ValueError, match="got tuple. Chain other"):
        dst.pack(params(), tx, (state,))
    with pytest.raises(ValueError, match="unpack_state: expected dst.sparsify"):
        dst.unpack_state(state, masked)
    denser = dst.sparsify(INNER["adamw"], dst.Static(0.5), stacked=STACKED).init(params())
    with pytest.raises(ValueError, match="active weights do not fit into the slots"):
        dst.pack(params(), tx, denser)


def test_values_stand_in_the_order_of_their_places_and_spare_slots_are_zero():
    method = dst.GMP(0.75, every=3, start=3, stop=18, allocation="uniform")
    _, tx = both(method, INNER["adamw"], {})
    values, state = dst.pack(params(), tx)
    assert values["first"]["w"].shape == (12 * 16,)  # it starts dense
    np.testing.assert_array_equal(values["first"]["w"], params()["first"]["w"].reshape(-1))
    change = quick(lambda g, s, v: tx.retopologise(g, s, v))
    for count in range(20):
        if tx.fires(count):
            grads = quick(jax.grad(loss))(dst.unpack(values, state))
            values, state = change(grads, state, values)
        else:
            state = state._replace(count=state.count + 1)
    active, mask = 12 * 16 // 4, dst.masks(state)["first/w"]
    assert int(mask.sum()) == active
    dense = np.asarray(dst.unpack(values, state)["first"]["w"])
    np.testing.assert_array_equal(values["first"]["w"][:active], dense[np.asarray(mask)])
    assert not np.asarray(values["first"]["w"][active:]).any()


def test_a_packed_state_takes_a_seventh_of_the_memory():
    """With 32-bit Adam at 90 %: values, two moments and an index of 4 bytes each, and a mark of one
    for every active weight, and a bit for every weight."""
    start = {"w": jnp.ones((512, 512))}
    method = dst.RigL(0.9, every=100, stop=7_500)
    values, state = dst.pack(start, dst.sparsify(optax.adam(1e-3), method, form="packed"))
    size = sum(x.nbytes for x in jax.tree.leaves((values, state)))
    counts = state.hyper.counts["w"].nbytes + state.hyper.shares.nbytes
    assert (size - counts) / 512**2 == pytest.approx(0.1 * 17 + 1 / 8, abs=1e-3)
    masked = dst.sparsify(optax.adam(1e-3), method)
    state = masked.init(start)
    whole = sum(x.nbytes for x in jax.tree.leaves((start, state))) - counts
    assert whole / 512**2 == pytest.approx(13, abs=1e-3)


def test_a_flax_model_is_packed():
    model = nnx.Linear(16, 8, rngs=nnx.Rngs(0))
    graph, start = nnx.split(model, nnx.Param)
    tx = dst.sparsify(optax.adam(1e-2), dst.RigL(0.5, every=2, stop=9), form="packed")
    values, state = dst.pack(start, tx)
    x = jnp.ones((4, 16))

    def objective(p):
        return (nnx.merge(graph, p)(x) ** 2).mean()

    grads = jax.grad(lambda v: objective(dst.unpack(v, state)))(values)
    updates, state = tx.update(grads, state, values, topology=False)
    values = optax.apply_updates(values, updates)
    values, state = tx.retopologise(jax.grad(objective)(dst.unpack(values, state)), state, values)
    dst.check_invariants(state, dst.unpack(values, state))
    assert dst.masks(state)["kernel"].sum() == 64


ADAM = optax.adam(1e-3)
RIGL = dst.RigL(0.75, every=3, stop=20)
REFUSED = {
    "latent weights": (ADAM, dst.TopKWeights(0.75), {}, "latent weights"),
    "accumulators": (ADAM, dst.RigL(0.75, every=3, accumulate=2), {}, "accumulates gradients"),
    "global": (ADAM, dst.GMP(0.75, allocation="global"), {}, "follow from the weights"),
    "Muon": (optax.contrib.muon(1e-3), RIGL, {}, "more than single entries"),
    "block RMS": (optax.chain(optax.clip_by_block_rms(1.0), ADAM), RIGL, {}, "single entries"),
    "line search": (optax.lbfgs(), RIGL, {}, "could not be tried"),
    "no such form": (ADAM, RIGL, {"form": "dense"}, "form must be one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_packed_is_refused_by_name(case):
    inner, method, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        tx = dst.sparsify(inner, method, steps=30, stacked=STACKED, **{"form": "packed", **options})
        dst.pack(params(), tx)


def test_calls_of_the_other_form_say_what_to_do():
    tx = dst.sparsify(ADAM, RIGL, form="packed", stacked=STACKED)
    values, state = dst.pack(params(), tx)
    for topology in (None, True):
        with pytest.raises(ValueError, match="tx.retopologise"):
            tx.update(values, state, values, topology=topology)
    with pytest.raises(ValueError, match="dst.pack"):
        tx.init(params())
    masked = dst.sparsify(ADAM, RIGL, stacked=STACKED)
    with pytest.raises(ValueError, match="masked form"):
        dst.pack(params(), masked)
    with pytest.raises(ValueError, match="masked form"):
        masked.retopologise(params(), masked.init(params()), params())
    with pytest.raises(ValueError, match="no packed leaf"):
        dst.unpack(values, masked.init(params()))
    with pytest.raises(ValueError, match="the same step"):
        dst.unpack(jax.tree.map(lambda v: v[:3], values), state)
    static = dst.sparsify(ADAM, dst.Static(0.5), form="packed")
    with pytest.raises(ValueError, match="without topology steps"):
        static.retopologise(params(), state, values)


@pytest.mark.evidence
def test_packed_and_masked_training_stay_together_over_500_steps():
    """Eight layers, real data, programs compiled as users compile them. Sums in another order part
    weights in the last bit; a topology step then exchanges the same connections but for ties."""
    digits = load_digits()
    x = jnp.asarray(digits.data / 16, jnp.float32)
    y = jnp.asarray(digits.target)
    sides = [64, *[128] * 7, 10]
    keys = jax.random.split(jax.random.key(0), 8)
    start = {
        f"layer_{i}": jax.random.normal(keys[i], sides[i : i + 2]) * np.sqrt(2 / sides[i])
        for i in range(8)
    }

    def objective(p, count):
        rows = (count * 128 + jnp.arange(128)) % len(x)
        h = x[rows]
        for i in range(8):
            h = h @ p[f"layer_{i}"]
            h = jax.nn.relu(h) if i < 7 else h
        return optax.softmax_cross_entropy_with_integer_labels(h, y[rows]).mean()

    method = dst.RigL(0.9, every=100, stop=375)
    masked = dst.sparsify(optax.adam(1e-3), method)
    tx = dst.sparsify(optax.adam(1e-3), method, form="packed")
    state = masked.init(start)
    dense = dst.apply_masks(start, state)
    values, packed_state = dst.pack(start, tx)

    @partial(jax.jit, static_argnums=2)
    def of_masked(p, state, topology):
        value, grads = jax.value_and_grad(objective)(p, state.count)
        updates, state = masked.update(grads, state, p, topology=topology)
        return optax.apply_updates(p, updates), state, value

    @jax.jit
    def hot(values, state):
        def of_values(v):
            return objective(dst.unpack(v, state), state.count)

        value, grads = jax.value_and_grad(of_values)(values)
        updates, state = tx.update(grads, state, values, topology=False)
        return optax.apply_updates(values, updates), state, value

    @jax.jit
    def topology_step(values, state):
        value, grads = jax.value_and_grad(objective)(dst.unpack(values, state), state.count)
        return *tx.retopologise(grads, state, values), value

    ours, theirs = [], []
    for count in range(500):
        fires = masked.fires(count)
        dense, state, value = of_masked(dense, state, fires)
        theirs.append(float(value))
        values, packed_state, value = (topology_step if fires else hot)(values, packed_state)
        ours.append(float(value))
        if fires:
            pairs = [(dst.masks(packed_state)[path], m) for path, m in dst.masks(state).items()]
            common = sum(int((a & b).sum()) for a, b in pairs) / sum(int(b.sum()) for _, b in pairs)
            assert common >= 0.999, count
    assert dst.metrics(state, dense)["topology_steps"] == 3
    assert np.mean(ours[-50:]) == pytest.approx(np.mean(theirs[-50:]), rel=0.01)
