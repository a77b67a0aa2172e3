"""Laws and worked numbers of schedules and cadences."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dst
from dst.rules.ramps import cubic
from dst.rules.rule import HowMany, Rule
from dst.rules.schedule import (
    UpdateSchedule,
    constant,
    cosine,
    duration,
    exact,
    linear,
    resolve,
    update_schedule,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# Values


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (0, 0.3),
        (100, 0.299988),
        (6250, 0.256066),
        (12500, 0.15),
        (18750, 0.043934),
        (24900, 1.2e-5),
        (25000, 0.0),
        (30000, 0.0),
    ],
)
def test_the_cosine_of_rigl(step, value):
    assert cosine(0.3, 25_000)(step) == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.5), (250, 0.427509), (500, 0.2525), (750, 0.077491), (1000, 0.005)]
)
def test_the_cosine_with_the_floor_of_itop(step, value):
    assert cosine(0.5, 1000, end=0.005)(step) == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 0), (1000, 0), (3250, 0.520312), (5500, 0.7875), (7750, 0.885938), (10000, 0.9)],
)
def test_the_cubic_ramp_of_gradual_pruning(step, value):
    assert float(cubic(0.9, 1000, 10_000)(step)) == pytest.approx(value, abs=6e-7)
    assert cubic(0.9, 1000, 10_000)(12_000) == Fraction(9, 10)


def test_the_ramp_of_jaxpruner_runs_one_step_ahead():
    """jaxpruner/sparsity_schedules.py: its progress is (step + 1 - start) / (end - start)."""
    assert cubic(0.5, 0, 20)(9 + 1) == Fraction(4375, 10_000)
    for step, value in [(1000, 0.0003), (3250, 0.520481), (5500, 0.787575)]:
        assert float(cubic(0.9, 1000, 10_000)(step + 1)) == pytest.approx(value, abs=6e-7)


def test_a_ramp_cannot_end_before_it_starts():
    with pytest.raises(ValueError, match="must not lie before its start 10, got 9"):
        cubic(0.9, 10, 9)


def test_a_line_is_straight():
    assert [linear(0.4, 4, end=0.2)(t) for t in (0, 1, 2, 4, 9)] == pytest.approx(
        [0.4, 0.35, 0.3, 0.2, 0.2]
    )


def test_exchanged_counts_follow_the_cosine():
    """100 active weights, drop fraction .3 at first, ten steps."""
    rule = Rule(0.9, how_many=HowMany(fraction=cosine(0.3, 10)))
    assert [rule.exchanged(100, t) for t in range(11)] == [30, 29, 27, 23, 19, 15, 10, 6, 2, 0, 0]


@pytest.mark.parametrize(
    ("active", "fraction", "rounding", "dropped"),
    [
        (90, 0.7, "floor", 63),  # 62 in binary floating point
        (90, 0.7, "ceil", 63),
        (7, 0.3, "floor", 2),
        (7, 0.3, "ceil", 3),
        (5, 0.5, "floor", 2),
        (5, 0.5, "ceil", 3),
        (5, 0.5, "round", 3),
        (3, 0.5, "round", 2),  # half up: banker's rounding depends on the neighbour
        (10, 0.1, "ceil", 1),
        (10, 1.0, "ceil", 10),
        (10, 0.0, "ceil", 0),
        (1, 0.3, "floor", 0),
    ],
)
def test_exchanged_counts_are_rounded_as_said(active, fraction, rounding, dropped):
    """``floor`` as in RigL's code, ``ceil`` as in ITOP's and GraNet's."""
    rule = Rule(0.9, how_many=HowMany(fraction=constant(fraction), rounding=rounding))
    assert rule.exchanged(active, 0) == dropped


@given(active=st.integers(0, 3000), hundredths=st.integers(0, 100))
def test_exchanged_counts_of_decimals_equal_those_of_fractions(active, hundredths):
    rule = Rule(0.5, how_many=HowMany(fraction=constant(hundredths / 100)))
    assert rule.exchanged(active, 0) == active * hundredths // 100


def test_a_drop_fraction_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match=r"drop fraction at step 7 must be a number in \[0, 1\]"):
        Rule(0.5, how_many=HowMany(fraction=constant(1.5))).exchanged(10, 7)


def test_decimal_numbers_are_exact_fractions():
    assert exact(0.9) == Fraction(9, 10)
    assert exact(1e-3) == Fraction(1, 1000)
    assert exact(0) == 0
    assert exact(Fraction(1, 3)) == Fraction(1, 3)
    assert exact(0.1 + 0.2) == Fraction(3, 10)
    assert exact(0.123456789) == Fraction(123456789, 10**9)


def test_quotients_of_small_integers_are_exact_fractions():
    for m in range(2, 260):
        for n in range(1, m):
            assert exact(1 - n / m) == 1 - Fraction(n, m) and exact(n / m) == Fraction(n, m)


# Optax compatibility

SCHEDULES = [
    cosine(0.3, 75),
    cosine(0.5, 100, end=0.005),
    linear(0.4, 60, end=0.1),
    cubic(0.9, 10, 80),
    cubic(0.9, 10, 80, initial=0.5),
    cubic(0.9, 50, 50),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_traced_counts_agree_with_host_counts(schedule):
    steps = np.arange(120, dtype=np.int32)
    host = [float(schedule(int(t))) for t in steps]
    traced = jax.jit(jax.vmap(schedule))(jnp.asarray(steps))
    np.testing.assert_allclose(traced, host, atol=1e-6)
    assert float(schedule(np.int32(40))) == host[40]


def test_optax_accepts_our_schedules_and_we_accept_optax_schedules():
    with jax.numpy_dtype_promotion("standard"):  # Optax itself is not strict
        tx = optax.scale_by_schedule(cosine(0.3, 10))
        state = tx.init(jnp.ones(1))
        update, _ = tx.update(jnp.ones(1), state)
        assert float(update[0]) == pytest.approx(0.3)
        rule = Rule(0.9, how_many=HowMany(fraction=optax.cosine_decay_schedule(0.3, 10)))
        assert [rule.exchanged(100, t) for t in (0, 5, 10)] == [30, 15, 0]


# Cadences


def fired(c, until=100):
    return [t for t in range(until) if c.fires(t)]


@pytest.mark.parametrize(
    ("every", "start", "stop", "steps", "expected"),
    [
        (10, None, 40, None, [10, 20, 30]),  # stop is exclusive
        (10, None, 41, None, [10, 20, 30, 40]),
        (10, 0, 40, None, [0, 10, 20, 30]),
        (10, 5, 40, None, [5, 15, 25, 35]),
        (10, 5, 45, None, [5, 15, 25, 35]),
        ("10%", None, "50%", 80, [8, 16, 24, 32]),
        ("12.5%", "25%", "75%", 80, [20, 30, 40, 50]),
        (7, None, None, None, [7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77, 84, 91, 98]),
        (30, 3, 4, None, [3]),
    ],
)
def test_topology_changes_at_start_and_every_interval_before_stop(
    every, start, stop, steps, expected
):
    schedule = update_schedule(every, start, stop, steps, "")
    assert fired(schedule) == expected
    if stop is not None:
        assert schedule.steps() == expected and not schedule.endless


@pytest.mark.parametrize(
    ("every", "start", "stop", "expected"),
    [(10, 0, 20, [0, 10, 20]), (10, 5, 28, [5, 15, 25, 28]), (10, 5, 7, [5, 7]), (9, 5, 5, [5])],
)
def test_an_included_stop_is_the_last_step_also_off_the_grid(every, start, stop, expected):
    schedule = update_schedule(every, start, stop, None, "", include_stop=True)
    assert fired(schedule) == schedule.steps() == expected


@given(
    every=st.integers(1, 12), start=st.integers(0, 30), more=st.integers(1, 40), stop=st.booleans()
)
def test_the_list_of_steps_is_what_fires(every, start, more, stop):
    schedule = update_schedule(every, start, start + more, None, "", include_stop=stop)
    assert fired(schedule) == schedule.steps()
    assert schedule.steps()[0] == start


@pytest.mark.parametrize(
    ("every", "start", "stop"), [(100, None, 100), (100, None, 50), (10, 40, 40), (10, 50, 40)]
)
def test_a_schedule_that_never_fires_is_an_error(every, start, stop):
    with pytest.raises(ValueError, match="never fires"):
        update_schedule(every, start, stop, None, "")


def test_a_cadence_of_ones_own_that_never_fires_is_an_error():
    with pytest.raises(ValueError, match="never fires"):
        UpdateSchedule(first=5, every=1, last=4)


@pytest.mark.parametrize(
    ("value", "steps", "expected"),
    [("75%", 1000, 750), ("12.5%", 1000, 125), ("33%", 10, 3), ("100%", 7, 7), ("0%", 9, 0)],
)
def test_percentages_are_shares_of_training_rounded_down(value, steps, expected):
    assert resolve("stop", value, steps, "") == expected
    assert resolve("stop", 12, None, "") == 12


@pytest.mark.parametrize("value", ["75", "abc%", "-1%", "101%", "nan%", -1, 1.5, True, None])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match="stop must be a number of steps or a percentage"):
        duration("stop", value)


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (dst.RigL(sparsity=0.9), "RigL changes topology every 100 steps"),
        (dst.SET(sparsity=0.9, every=10), "SET rewires at the end of every epoch"),
        (dst.SET(sparsity=0.9, stop=1000), "SET rewires at the end of every epoch"),
        (dst.GMP(sparsity=0.9), "Gradual pruning starts after"),
    ],
)
def test_a_cadence_that_cannot_be_resolved_names_the_rule_of_the_paper(method, rule):
    with pytest.raises(ValueError, match=rule):
        method.rule()


@pytest.mark.parametrize("method", [dst.RigL, dst.GMP])
@pytest.mark.parametrize("every", [0, "0%", "0.0%"])
def test_an_interval_of_nothing_is_an_error(method, every):
    with pytest.raises(ValueError, match="every"):
        method(sparsity=0.9, every=every).rule(steps=1000)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (dst.RigL(sparsity=0.9, every=10), [10, 20, 30, 40, 50, 60, 70]),
        (dst.SET(sparsity=0.9, every=30), [30, 60, 90]),
        (dst.GMP(sparsity=0.9, every=20), [25, 45, 65, 75]),
        (dst.Static(sparsity=0.9), []),
        (dst.Dense(), []),
        (dst.rigl_itop(0.9, every=40), [40, 80]),
    ],
)
def test_methods_fire_as_their_papers_say(method, expected):
    assert [t for t in range(101) if method.fires(t, steps=100)] == expected


def test_gradual_pruning_in_one_shot_is_possible():
    rule = dst.GMP(sparsity=0.9, start=50, stop=50).rule()
    assert rule.when.steps() == [50]
    assert (rule.how_many.ramp(49), rule.how_many.ramp(50)) == (0, 1)


@pytest.mark.parametrize(
    ("start", "stop", "every"), [(0, 95, 10), (3, 50, 7), (10, 20, 100), (1000, 10_000, 999)]
)
def test_gradual_pruning_reaches_its_sparsity_when_the_end_is_off_the_grid(start, stop, every):
    """JaxPruner's last value is .8999 then."""
    rule = dst.GMP(sparsity=0.9, start=start, stop=stop, every=every).rule()
    assert rule.when.steps()[-1] == stop
    assert rule.how_many.ramp(stop) == 1
    assert rule.how_many.ramp(start) == 0


def test_a_percentage_of_the_run_scales_with_the_run():
    method = dst.RigL(sparsity=0.9, every="10%")
    for steps in (100, 1000):
        assert method.rule(steps).when.every == steps // 10
        assert float(method.rule(steps).how_many.fraction(steps * 3 // 4)) == pytest.approx(
            0, abs=1e-9
        )


@pytest.mark.parametrize("fraction", [cosine(0.3, 100), linear(0.3, 100)])
def test_a_decay_without_end_needs_a_stop(fraction):
    from dst.core.tree import survey
    from dst.engine.hard_plan import plan_of

    rule = Rule(
        0.5, when=update_schedule(10, None, None, None, ""), how_many=HowMany(fraction=fraction)
    )
    leaves = survey({"w": jax.ShapeDtypeStruct((4, 4), jnp.float32)})
    with pytest.raises(ValueError, match="needs a last topology step. Give `stop`"):
        plan_of(leaves, rule)
    with pytest.raises(ValueError, match="needs an end"):
        dst.RigL(sparsity=0.9, stop=None)
